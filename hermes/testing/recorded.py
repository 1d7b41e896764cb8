"""Clauses of the contract that one recorded stream shows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.testing.trial import Trial, managed, require, same
from hermes.tokens import Provenance, Rotary, TokenKind

# Of keys and values, relative to the largest: what float32 and a few rotations explain.
ROUNDING = 1e-4


def budget_is_kept(trial: Trial) -> None:
    """A bounded policy never holds more video tokens than its budget, in any layer or in total."""
    policy, prefix = trial.policy(), trial.recording.prefix
    if policy.bound != "bounded":
        return
    allowed = trial.allowed(policy)
    for layer in trial.recording.layers():
        held = layer.after["keys"].shape[2] - prefix
        require(
            held <= allowed[layer.index],
            f"{layer.where}: {held} video tokens, allowed {allowed[layer.index]}",
        )
    total = policy.budget * len(allowed)
    for number, step in enumerate(trial.recording.steps):
        held = sum(layer["keys"].shape[2] - prefix for layer in managed(step.after))
        require(held <= total, f"chunk {number}: {held} video tokens in all layers, allowed {total}")


def lengths_are_as_declared(trial: Trial) -> None:
    """Where it evicts, a policy that states a budget per layer (``budgets``) fills it exactly."""
    policy, prefix = trial.policy(), trial.recording.prefix
    if policy.bound != "bounded" or not hasattr(policy, "budgets"):
        return
    for layer in trial.recording.layers():
        if layer.update is not None:
            was, kept = (state["keys"].shape[2] - prefix for state in (layer.before, layer.after))
            could = min(was, trial.allowed(policy)[layer.index])
            require(kept == could, f"{layer.where}: keeps {kept} video tokens and could keep {could}")


def prefix_is_kept(trial: Trial) -> None:
    """The prefix stays as it was first written, bit for bit."""
    recording = trial.recording
    require(recording.prefix > 0 or not recording.steps, "the memory has no prefix")
    for layer in recording.layers():
        first = recording.steps[0].before[layer.index]
        for name, axis in (("keys", 2), ("values", 2), ("positions", 3), ("tokens", 3)):
            was, now = (state[name].narrow(axis, 0, recording.prefix) for state in (first, layer.after))
            require(bool((was == now).all()), f"{layer.where}: other {name} in the prefix")


def kept_indices_are_valid(trial: Trial) -> None:
    """Slots to keep are unique, ascending and in range, and begin with the prefix; no token is held twice."""
    for layer in trial.recording.layers():
        if layer.update is not None:
            keep, length = layer.update.keep, layer.before["keys"].shape[2]
            where = f"{layer.where}: slots to keep"
            require(keep.dtype == torch.int64 and keep.ndim == 3, f"{where} are not int64 [B, R, K]")
            require(bool((keep.diff(dim=-1) > 0).all()), f"{where} are not ascending or not unique")
            require(bool(((keep >= 0) & (keep < length)).all()), f"{where} outside 0 .. {length - 1}")
            head = torch.arange(trial.recording.prefix, device=keep.device)
            require(bool((keep[..., : len(head)] == head).all()), f"{where} leave out some of the prefix")
        for ids in Provenance(layer.after["tokens"]).id.flatten(0, 1):
            require(len(ids.unique()) == len(ids), f"{layer.where}: a token is held twice")


def untriggered_memory_is_untouched(trial: Trial) -> None:
    """Where nothing is evicted or re-indexed, the memory stays bit-identical."""
    for number, step in enumerate(trial.recording.steps):
        alike = step.changed or same(step.before, step.after)
        require(alike, f"chunk {number}: the memory changed, and the policy says that it did not")
    for layer in trial.recording.layers():
        if layer.update is None and torch.equal(layer.before["positions"], layer.after["positions"]):
            require(same([layer.before], [layer.after]), f"{layer.where}: changed without an update")


def positions_are_ordered(trial: Trial) -> None:
    """Positions increase strictly along the cache (1-D), or no two tokens share one (M-RoPE)."""
    for layer in trial.recording.layers():
        positions = layer.after["positions"]
        if positions.shape[0] == 1:
            require(bool((positions.diff(dim=-1) > 0).all()), f"{layer.where}: positions do not increase")
        else:
            for row in positions.flatten(1, 2).unbind(1):
                require(row.unique(dim=1).shape == row.shape, f"{layer.where}: two tokens share a position")


def positions_stay_in_range(trial: Trial) -> None:
    """A bounded policy's positions stay below the decoder's range however long the stream is."""
    policy = trial.policy()
    if policy.bound != "bounded":
        return
    _, usable = trial.position_limits(policy)
    for layer in trial.recording.layers():
        top = float(layer.before["positions"].max())
        require(top < usable, f"{layer.where}: position {top:g}, and only {usable} may be used")


def keys_are_rope_from_scratch(trial: Trial) -> None:
    """Held keys are the tokens' own, rotated to their recorded positions; values are the tokens' own."""
    for layer in trial.recording.layers():
        own_keys, own_values = trial.recording.keys[layer.index], trial.recording.values[layer.index]
        tokens, rotary = Provenance(layer.after["tokens"]), trial.backbone.rotary.layer(layer.index)
        for head in range(layer.after["keys"].shape[1]):
            row = head if tokens.id.shape[1] > 1 else 0
            # A mixed token has no key of its own.
            slots = (tokens.kind[0, row] != int(TokenKind.SUMMARY)).nonzero().flatten()
            ids = tokens.id[0, row, slots].tolist()
            where = f"{layer.where}, head {head}"
            require(all(name in own_keys for name in ids), f"{where}: holds a token that was never written")
            values = torch.stack([own_values[name][head] for name in ids])
            require(
                torch.equal(layer.after["values"][0, head, slots], values), f"{where}: not its own values"
            )
            plain = torch.stack([own_keys[name][head] for name in ids])
            expected = _turned(rotary, plain, layer.after["positions"][:, 0, row, slots])
            error = float((layer.after["keys"][0, head, slots] - expected).abs().max() / plain.abs().max())
            require(error <= ROUNDING, f"{where}: keys are not those of their positions, off by {error:.1e}")


def _turned(rotary: Rotary, keys: Float[Tensor, "T D"], positions: Float[Tensor, "A T"]) -> Tensor:
    """Keys at these positions ``[T, D]``, float64, by a rotation written out."""
    frequencies, axis = rotary.frequencies.to(keys.device), rotary.axis.to(keys.device)
    angles = positions.double()[axis].T * frequencies.double()
    scaling = torch.as_tensor(rotary.scaling, dtype=torch.float64, device=keys.device)
    turns = torch.polar(scaling.expand_as(angles), angles)
    pairs = torch.complex(*keys.double().chunk(2, dim=-1)) * turns
    return torch.cat((pairs.real, pairs.imag), dim=-1)
