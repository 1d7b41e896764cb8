"""The clauses of the contract, one function each; a broken one raises :class:`ContractError`.

Here are those that need streams of their own; the others are in :mod:`hermes.testing.recorded`.
"""

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
from hermes.testing.recorded import (
    ROUNDING,
    budget_is_kept,
    kept_indices_are_valid,
    keys_are_rope_from_scratch,
    lengths_are_as_declared,
    positions_are_ordered,
    positions_stay_in_range,
    prefix_is_kept,
    untriggered_memory_is_untouched,
)
from hermes.testing.trial import CHUNK_FRAMES, CHUNKS, Trial, copy_state, fingerprint, require, same
from hermes.tokens import Chunk

Clause = Callable[[Trial], None]

_QUESTION = "What is happening?"
# Bytes of what a policy may report besides: sizes and counters that it need not save.
_COUNTERS = 4096


def streams_are_deterministic(trial: Trial) -> None:
    """The same frames and seed give the same memory, bit for bit."""
    require(
        same(copy_state(trial.streamed().memory), trial.usual),
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
        require(bool(first.seen.isfinite().all()), f"{name}: the answer's logits are not finite")
        for index, layer in enumerate(session.memory):
            for kind, tensor in (("keys", layer.keys), ("values", layer.values)):
                where = f"{name}: layer {index} has {kind}"
                require(tensor.dtype == dtype, f"{where} of {tensor.dtype}")
                require(tensor.device == backbone.device, f"{where} on {tensor.device}")
                require(bool(tensor.isfinite().all()), f"{where} that are not finite")


def streams_in_a_batch_are_independent(trial: Trial) -> None:
    """Two streams in lockstep each hold what they hold alone, or are refused before anything is read."""
    streams = [trial.chunks(4, seed) for seed in (1, 2)]
    together, *alone = (trial.session() for _ in range(3))
    if not trial.policy().lockstep:
        with suppress(SettingError):
            together.feed_chunk(_stacked([stream[0] for stream in streams]))
            require(False, "takes two streams at once, and says that it does not")
        require(not any(together.memory.lengths), "two streams were refused, and something was read")
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
                require(ours.shape == expected.shape, where)
                exact = name in ("tokens", "positions")
                rounding = 0.0 if exact else ROUNDING * float(expected.abs().max())
                require(float((ours - expected).abs().max()) <= rounding, where)


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
            require(
                same(before, copy_state(session.memory)), "an exception while answering changed the memory"
            )
            with _failing(layers[managed[len(managed) // 2]]):
                session.feed(second)
            require(
                same(before, copy_state(session.memory)), "an exception while encoding changed the memory"
            )
            vars(session.policy)["compress"] = _fail
            with suppress(_Failed):
                session.feed(third)
            del vars(session.policy)["compress"]
            require(not any(layer.pending for layer in session.memory), "an exception left pending tokens")
            session.feed(fourth)
            session.ask(_QUESTION)
        require(
            fingerprint(trial.backbone.model) == trial.found, "the model is not as it was before the session"
        )
        for layer, limit in zip(session.memory, trial.allowed(session.policy), strict=True):
            over = session.policy.bound == "bounded" and layer.video_length > limit
            require(not over, f"after an exception layer {layer.index} stays over its budget")


def reset_is_fresh(trial: Trial) -> None:
    """After a reset the same frames give the same memory as in a new session."""
    session = trial.streamed(3)
    session.ask(_QUESTION)
    session.reset()
    require(not any(session.memory.lengths), "a reset leaves tokens in the memory")
    session.feed(trial.frames(CHUNKS * CHUNK_FRAMES))
    require(same(copy_state(session.memory), trial.usual), "a reset leaves state behind")


def settings_round_trip(trial: Trial) -> None:
    """A policy built from its own settings equals it, and has the same hash."""
    policy = trial.policy()
    policy.start(trial.session().context)
    again = trial.policy(to_dict(policy))
    require(again == policy, f"settings do not come back: {to_dict(again)} from {to_dict(policy)}")
    require(config_hash(again) == config_hash(policy), "the hash of the settings changes")


def saved_memory_goes_on(trial: Trial) -> None:
    """A memory comes back from disk bit-identical, and streaming goes on as if it had not been away."""
    session = trial.streamed(3)
    with tempfile.TemporaryDirectory() as folder:
        session.memory.save(folder)
        rotaries = {"rotary": trial.backbone.rotary, "window_rotary": trial.backbone.window_rotary}
        loaded = load_memory(folder, device=trial.backbone.device, **rotaries)
    require(same(copy_state(session.memory), copy_state(loaded)), "the memory comes back different")
    session.hold(loaded)
    session.feed(trial.frames(CHUNKS * CHUNK_FRAMES)[3 * CHUNK_FRAMES :])
    require(same(copy_state(session.memory), trial.usual), "streaming goes on differently")


def question_leaves_the_memory(trial: Trial) -> None:
    """A question changes nothing, bit for bit; asked again with the same seed it has the same answer."""
    session = trial.streamed()
    before = copy_state(session.memory)
    one, other = (session.ask(_QUESTION).ids.tolist() for _ in range(2))
    require(same(before, copy_state(session.memory)), "a question changes the memory")
    require(one == other, f"the same question has two answers, {one} and {other}")


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
    require(sizes[1] > sizes[0], f"reports {sizes[0]} bytes, and {sizes[1]} after twice as many frames")


def what_is_held_is_counted(trial: Trial) -> None:
    """The bytes a policy reports beside the memory are those of the state it saves, but for counters."""
    policy = trial.streamed().policy
    told, held = policy.resident_bytes + policy.archived_bytes, list(policy.state().values())
    least = sum(x.nbytes for x in held if x.is_floating_point() or x.dtype == torch.uint8)
    most = sum(x.nbytes for x in held) + _COUNTERS
    text = f"a saved stream holds {least} bytes of the policy, {most} with counters, and it reports {told}"
    require(least <= told <= most, text)


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
    require(same(found[0], found[1]), "it says stateless, and the same step twice comes to two things")
    require(same(found[0], found[2]), "it says stateless, and what it did before makes a difference")


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
