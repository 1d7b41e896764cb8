"""The clauses of the contract, one function each; a broken one raises :class:`ContractError`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from hermes.config import config_hash, to_dict
from hermes.decoding.observer import DecoderObserver
from hermes.decoding.prefill import prefill
from hermes.errors import SettingError
from hermes.memory import load_memory
from hermes.testing.rotation import rotated
from hermes.testing.trial import CHUNK_FRAMES, CHUNKS, ContractError, State, Trial, copy_state, fingerprint
from hermes.testing.trial import managed as decided
from hermes.tokens import Chunk, Provenance, TokenKind

Clause = Callable[[Trial], None]

_QUESTION = "What is happening?"
# Of keys and values, relative to the largest: what float32 and a few rotations explain.
_ROUNDING = 1e-4
# Bytes of what a policy may report besides: sizes and counters that it need not save.
_COUNTERS = 4096


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


def _same(one: State, other: State) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


# -- what the recorded stream shows ------------------------------------------------------------------------


def budget_is_kept(trial: Trial) -> None:
    """A bounded policy never holds more video tokens than its budget, in any layer or in total."""
    policy, prefix = trial.policy(), trial.recording.prefix
    if policy.bound != "bounded":
        return
    allowed = trial.allowed(policy)
    for layer in trial.recording.layers():
        held = layer.after["keys"].shape[2] - prefix
        _require(
            held <= allowed[layer.index],
            f"{layer.where}: {held} video tokens, allowed {allowed[layer.index]}",
        )
    total = policy.budget * len(allowed)
    for number, step in enumerate(trial.recording.steps):
        held = sum(layer["keys"].shape[2] - prefix for layer in decided(step.after))
        _require(held <= total, f"chunk {number}: {held} video tokens in all layers, allowed {total}")


def lengths_are_as_declared(trial: Trial) -> None:
    """Where it evicts, a policy that states a budget per layer (``budgets``) fills it exactly."""
    policy, prefix = trial.policy(), trial.recording.prefix
    if policy.bound != "bounded" or not hasattr(policy, "budgets"):
        return
    for layer in trial.recording.layers():
        if layer.update is not None:
            was, kept = (state["keys"].shape[2] - prefix for state in (layer.before, layer.after))
            could = min(was, trial.allowed(policy)[layer.index])
            _require(kept == could, f"{layer.where}: keeps {kept} video tokens and could keep {could}")


def prefix_is_kept(trial: Trial) -> None:
    """The prefix stays as it was first written, bit for bit."""
    recording = trial.recording
    _require(recording.prefix > 0 or not recording.steps, "the memory has no prefix")
    for layer in recording.layers():
        first = recording.steps[0].before[layer.index]
        for name, axis in (("keys", 2), ("values", 2), ("positions", 3), ("tokens", 3)):
            was, now = (state[name].narrow(axis, 0, recording.prefix) for state in (first, layer.after))
            _require(bool((was == now).all()), f"{layer.where}: other {name} in the prefix")


def kept_indices_are_valid(trial: Trial) -> None:
    """Slots to keep are unique, ascending and in range, and begin with the prefix; no token is held twice."""
    for layer in trial.recording.layers():
        if layer.update is not None:
            keep, length = layer.update.keep, layer.before["keys"].shape[2]
            where = f"{layer.where}: slots to keep"
            _require(keep.dtype == torch.int64 and keep.ndim == 3, f"{where} are not int64 [B, R, K]")
            _require(bool((keep.diff(dim=-1) > 0).all()), f"{where} are not ascending or not unique")
            _require(bool(((keep >= 0) & (keep < length)).all()), f"{where} outside 0 .. {length - 1}")
            head = torch.arange(trial.recording.prefix, device=keep.device)
            _require(bool((keep[..., : len(head)] == head).all()), f"{where} leave out some of the prefix")
        for ids in Provenance(layer.after["tokens"]).id.flatten(0, 1):
            _require(len(ids.unique()) == len(ids), f"{layer.where}: a token is held twice")


def untriggered_memory_is_untouched(trial: Trial) -> None:
    """Where nothing is evicted or re-indexed, the memory stays bit-identical."""
    for number, step in enumerate(trial.recording.steps):
        same = step.changed or _same(step.before, step.after)
        _require(same, f"chunk {number}: the memory changed, and the policy says that it did not")
    for layer in trial.recording.layers():
        if layer.update is None and torch.equal(layer.before["positions"], layer.after["positions"]):
            _require(_same([layer.before], [layer.after]), f"{layer.where}: changed without an update")


def positions_are_ordered(trial: Trial) -> None:
    """Positions increase strictly along the cache (1-D), or no two tokens share one (M-RoPE)."""
    for layer in trial.recording.layers():
        positions = layer.after["positions"]
        if positions.shape[0] == 1:
            _require(bool((positions.diff(dim=-1) > 0).all()), f"{layer.where}: positions do not increase")
        else:
            for row in positions.flatten(1, 2).unbind(1):
                _require(row.unique(dim=1).shape == row.shape, f"{layer.where}: two tokens share a position")


def positions_stay_in_range(trial: Trial) -> None:
    """A bounded policy's positions stay below the decoder's range however long the stream is."""
    policy = trial.policy()
    if policy.bound != "bounded":
        return
    _, usable = trial.position_limits(policy)
    for layer in trial.recording.layers():
        top = float(layer.before["positions"].max())
        _require(top < usable, f"{layer.where}: position {top:g}, and only {usable} may be used")


def keys_are_rope_from_scratch(trial: Trial) -> None:
    """Held keys are the tokens' own, rotated to their recorded positions; values are the tokens' own."""
    for layer in trial.recording.layers():
        own_keys, own_values = trial.recording.keys[layer.index], trial.recording.values[layer.index]
        tokens = Provenance(layer.after["tokens"])
        for head in range(layer.after["keys"].shape[1]):
            row = head if tokens.id.shape[1] > 1 else 0
            # A mixed token has no key of its own.
            slots = (tokens.kind[0, row] != int(TokenKind.SUMMARY)).nonzero().flatten()
            ids = tokens.id[0, row, slots].tolist()
            where = f"{layer.where}, head {head}"
            _require(all(name in own_keys for name in ids), f"{where}: holds a token that was never written")
            values = torch.stack([own_values[name][head] for name in ids])
            _require(
                torch.equal(layer.after["values"][0, head, slots], values), f"{where}: not its own values"
            )
            plain = torch.stack([own_keys[name][head] for name in ids])
            expected = rotated(trial.backbone, layer.index, plain, layer.after["positions"][:, 0, row, slots])
            error = float((layer.after["keys"][0, head, slots] - expected).abs().max() / plain.abs().max())
            _require(
                error <= _ROUNDING, f"{where}: keys are not those of their positions, off by {error:.1e}"
            )


# -- what further streams show -----------------------------------------------------------------------------


def streams_are_deterministic(trial: Trial) -> None:
    """The same frames and seed give the same memory, bit for bit."""
    _require(
        _same(copy_state(trial.streamed().memory), trial.usual),
        "two runs with one seed hold different memories",
    )


class _FirstLogits(LogitsProcessor):  # type: ignore[misc]
    seen: Tensor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen = scores
        return scores


def dtype_and_device_are_preserved(trial: Trial) -> None:
    """In float16 and bfloat16 keys and values keep dtype and device, and everything stays finite."""
    for dtype in (torch.float16, torch.bfloat16):
        name: Any = str(dtype).removeprefix("torch.")
        backbone = type(trial.backbone).load(replace(trial.backbone.config, dtype=name))
        session, first = trial.streamed(3, backbone), _FirstLogits()
        session.ask(_QUESTION, processors=[first])
        _require(bool(first.seen.isfinite().all()), f"{name}: the answer's logits are not finite")
        for index, layer in enumerate(session.memory):
            for kind, tensor in (("keys", layer.keys), ("values", layer.values)):
                where = f"{name}: layer {index} has {kind}"
                _require(tensor.dtype == dtype, f"{where} of {tensor.dtype}")
                _require(tensor.device == backbone.device, f"{where} on {tensor.device}")
                _require(bool(tensor.isfinite().all()), f"{where} that are not finite")


def streams_in_a_batch_are_independent(trial: Trial) -> None:
    """Two streams in lockstep each hold what they hold alone, or are refused before anything is read."""
    streams = [trial.chunks(4, seed) for seed in (1, 2)]
    together, *alone = (trial.session() for _ in range(3))
    if not trial.policy().lockstep:
        with suppress(SettingError):
            together.feed_chunk(_stacked([stream[0] for stream in streams]))
            _require(False, "takes two streams at once, and says that it does not")
        _require(not any(together.memory.lengths), "two streams were refused, and something was read")
        return
    for pair in zip(*streams, strict=True):
        together.feed_chunk(_stacked(pair))
        for session, chunk in zip(alone, pair, strict=True):
            session.feed_chunk(chunk)
    for stream, session in enumerate(alone):
        # Keys of a window are rotated at a clock that streams of a batch share.
        batch = copy_state(together.memory.select([stream]))
        for index, one in enumerate(copy_state(session.memory)):
            for name in sorted(one.keys() - {"clock"}, reverse=True):
                where = f"stream {stream} of two, layer {index}: other {name} than alone"
                ours, expected = batch[index][name].float(), one[name].float()
                _require(ours.shape == expected.shape, where)
                exact = name in ("tokens", "positions")
                rounding = 0.0 if exact else _ROUNDING * float(expected.abs().max())
                _require(float((ours - expected).abs().max()) <= rounding, where)


def _stacked(chunks: Sequence[Chunk]) -> Chunk:
    levels = zip(*(chunk.deepstack for chunk in chunks), strict=True)
    return replace(
        chunks[0],
        embeds=torch.cat([chunk.embeds for chunk in chunks]),
        deepstack=tuple(torch.cat(level) for level in levels),
    )


class _Failed(Exception):  # noqa: N818
    """The failure that a clause causes on purpose."""


def _fail(*args: object) -> None:
    raise _Failed


@contextmanager
def _failing(module: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(_fail)
    try:
        with suppress(_Failed):
            yield
    finally:
        handle.remove()


def model_is_left_as_found(trial: Trial) -> None:
    """Nothing stays on the model after a session is closed, or after an exception; the memory stays whole."""
    layers: Any = trial.backbone.decoder.layers
    managed = trial.backbone.managed
    frames = trial.frames(4 * CHUNK_FRAMES)
    first, second, third, fourth = (
        frames[at : at + CHUNK_FRAMES] for at in range(0, len(frames), CHUNK_FRAMES)
    )
    for entered in (False, True):
        session = trial.session()
        with session if entered else nullcontext():
            session.feed(first)
            before = copy_state(session.memory)
            with _failing(layers[-1]):
                session.ask(_QUESTION)
            _require(
                _same(before, copy_state(session.memory)), "an exception while answering changed the memory"
            )
            with _failing(layers[managed[len(managed) // 2]]):
                session.feed(second)
            _require(
                _same(before, copy_state(session.memory)), "an exception while encoding changed the memory"
            )
            vars(session.policy)["compress"] = _fail
            with suppress(_Failed):
                session.feed(third)
            del vars(session.policy)["compress"]
            _require(not any(layer.pending for layer in session.memory), "an exception left pending tokens")
            session.feed(fourth)
            session.ask(_QUESTION)
        _require(
            fingerprint(trial.backbone.model) == trial.found, "the model is not as it was before the session"
        )
        for layer, limit in zip(session.memory, trial.allowed(session.policy), strict=True):
            over = session.policy.bound == "bounded" and layer.video_length > limit
            _require(not over, f"after an exception layer {layer.index} stays over its budget")


def reset_is_fresh(trial: Trial) -> None:
    """After a reset the same frames give the same memory as in a new session."""
    session = trial.streamed(3)
    session.ask(_QUESTION)
    session.reset()
    _require(not any(session.memory.lengths), "a reset leaves tokens in the memory")
    session.feed(trial.frames(CHUNKS * CHUNK_FRAMES))
    _require(_same(copy_state(session.memory), trial.usual), "a reset leaves state behind")


def settings_round_trip(trial: Trial) -> None:
    """A policy built from its own settings equals it, and has the same hash."""
    policy = trial.policy()
    policy.start(trial.session().context)
    again = trial.policy(to_dict(policy))
    _require(again == policy, f"settings do not come back: {to_dict(again)} from {to_dict(policy)}")
    _require(config_hash(again) == config_hash(policy), "the hash of the settings changes")


def saved_memory_goes_on(trial: Trial) -> None:
    """A memory comes back from disk bit-identical, and streaming goes on as if it had not been away."""
    session = trial.streamed(3)
    with tempfile.TemporaryDirectory() as folder:
        session.memory.save(folder)
        rotaries = {"rotary": trial.backbone.rotary, "window_rotary": trial.backbone.window_rotary}
        loaded = load_memory(folder, device=trial.backbone.device, **rotaries)
    _require(_same(copy_state(session.memory), copy_state(loaded)), "the memory comes back different")
    session.hold(loaded)
    session.feed(trial.frames(CHUNKS * CHUNK_FRAMES)[3 * CHUNK_FRAMES :])
    _require(_same(copy_state(session.memory), trial.usual), "streaming goes on differently")


def question_leaves_the_memory(trial: Trial) -> None:
    """A question changes nothing, bit for bit; asked again with the same seed it has the same answer."""
    session = trial.streamed()
    before = copy_state(session.memory)
    one, other = (session.ask(_QUESTION).ids.tolist() for _ in range(2))
    _require(_same(before, copy_state(session.memory)), "a question changes the memory")
    _require(one == other, f"the same question has two answers, {one} and {other}")


def growth_is_reported(trial: Trial) -> None:
    """A growing policy's reports show more bytes after a longer stream, on the device or elsewhere."""
    if trial.policy().bound != "growing":
        return
    session, frames = trial.session(), trial.frames(2 * CHUNKS * CHUNK_FRAMES)
    sizes = []
    for part in (frames[: len(frames) // 2], frames[len(frames) // 2 :]):
        session.feed(part)
        stats = session.stats()
        sizes.append(stats.memory_bytes + stats.archived_bytes)
    _require(sizes[1] > sizes[0], f"reports {sizes[0]} bytes, and {sizes[1]} after twice as many frames")


def what_is_held_is_counted(trial: Trial) -> None:
    """The bytes a policy reports beside the memory are those of the state it saves, but for counters."""
    policy = trial.streamed().policy
    told, held = policy.resident_bytes + policy.archived_bytes, list(policy.state().values())
    least = sum(x.nbytes for x in held if x.is_floating_point() or x.dtype == torch.uint8)
    most = sum(x.nbytes for x in held) + _COUNTERS
    text = f"a saved stream holds {least} bytes of the policy, {most} with counters, and it reports {told}"
    _require(least <= told <= most, text)


def stateless_is_stateless(trial: Trial) -> None:
    """What a policy that says ``stateless`` keeps does not depend on what it has done before."""
    if not trial.policy().repeats:
        return
    session, fresh = trial.streamed(), trial.policy()
    fresh.start(session.context)
    (chunk,) = trial.chunks(1, seed=1)
    fork, found = session.memory.fork(), []
    prefill(trial.backbone, fork, chunk)
    for policy in (session.policy, session.policy, fresh):
        memory = fork.fork()
        memory.apply(policy.compress(memory, DecoderObserver(trial.backbone, memory)))
        found.append(copy_state(memory))
    _require(_same(found[0], found[1]), "it says stateless, and the same step twice comes to two things")
    _require(_same(found[0], found[2]), "it says stateless, and what it did before makes a difference")


CLAUSES: Sequence[Clause] = (
    budget_is_kept,
    lengths_are_as_declared,
    prefix_is_kept,
    kept_indices_are_valid,
    untriggered_memory_is_untouched,
    positions_are_ordered,
    positions_stay_in_range,
    keys_are_rope_from_scratch,
    streams_are_deterministic,
    dtype_and_device_are_preserved,
    streams_in_a_batch_are_independent,
    model_is_left_as_found,
    reset_is_fresh,
    settings_round_trip,
    saved_memory_goes_on,
    question_leaves_the_memory,
    growth_is_reported,
    what_is_held_is_counted,
    stateless_is_stateless,
)
