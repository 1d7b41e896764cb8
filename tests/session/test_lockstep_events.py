"""Whatever happens to streams in lockstep happens to each as it would alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from hermes.errors import InputError, SettingError
from hermes.parts import Recency
from hermes.policy import MemoryPolicy, Tier, TieredPolicy, hierarchy
from hermes.session.lockstep import BatchedSession
from hermes.session.session import StreamSession
from hermes.session.stream import Stream
from hermes.video import Frame
from tests.support.families import tiny

pytestmark = pytest.mark.model
STREAMS, CHUNK = 2, 4


@dataclass
class Fragile(TieredPolicy):
    """Breaks where it is told to, once it has changed what it remembers."""

    breaks: str = ""
    reduced: int = 0

    def admit(self, frames: Any) -> Any:
        if self.breaks == "admits nothing":
            return []
        return frames

    def reduce(self, chunk: Any) -> Any:
        self.reduced += 1
        if self.breaks == "reduce":
            raise RuntimeError("broken on purpose")
        return chunk

    def compress(self, memory: Any, observe: Any) -> Any:
        if self.breaks == "compress":
            raise RuntimeError("broken on purpose")
        return super().compress(memory, observe)


def policy(name: str) -> MemoryPolicy:
    tiers = {"all": Tier(share=1.0, scorer=Recency())} if name == "newest" else hierarchy()
    return Fragile(budget=60, tiers=tiers)


def clip(seed: int, start: int, count: int, size: tuple[int, int] = (72, 128)) -> list[Frame]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (start + count, *size, 3), np.uint8)
    return [Frame(images[i], i / 2, i) for i in range(start, start + count)]


@contextmanager
def broken(backbone: Any, policies: list[MemoryPolicy], where: str) -> Iterator[None]:
    """Until the end of the block, something on the way of a chunk fails."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt if where == "interrupt" else RuntimeError("broken on purpose")

    with pytest.MonkeyPatch.context() as patch:
        if where == "vision":
            patch.setattr(backbone, "video", fail)
        elif where in ("forward", "interrupt"):
            # In the middle of the decoder: some layers have the chunk by then.
            patch.setattr(backbone.decoder.layers[5], "forward", fail)
        for one in policies:
            patch.setattr(one, "breaks", where)
        yield


class Alone:
    """The same streams, each in a session of its own, driven as lockstep is."""

    def __init__(self, make: Callable[[], MemoryPolicy]) -> None:
        self.sessions = [
            StreamSession(tiny("llava_onevision"), make(), fps=2.0, chunk_frames=CHUNK)
            for _ in range(STREAMS)
        ]

    @property
    def streams(self) -> list[Stream]:
        return [session.stream for session in self.sessions]

    def feed(self, clips: list[list[Frame]]) -> None:
        failure: BaseException | None = None
        for session, frames in zip(self.sessions, clips, strict=True):
            try:
                session.feed(frames)
            except BaseException as error:
                failure = error
        if failure is not None:
            raise failure

    def flush(self) -> None:
        for session in self.sessions:
            session.flush()

    def reset(self) -> None:
        for session in self.sessions:
            session.reset()

    def ask(self, question: str, stream: int | None = None) -> list[str]:
        asked = self.sessions if stream is None else [self.sessions[stream]]
        return [session.ask(question, max_new_tokens=4).answer for session in asked]


class Together:
    """Streams in lockstep."""

    def __init__(self, make: Callable[[], MemoryPolicy]) -> None:
        self.session = BatchedSession(tiny("llava_onevision"), make(), STREAMS, fps=2.0, chunk_frames=CHUNK)
        self.feed, self.flush, self.reset = self.session.feed, self.session.flush, self.session.reset
        self.streams = self.session.streams

    def ask(self, question: str, stream: int | None = None) -> list[str]:
        return [answer.answer for answer in self.session.ask(question, stream=stream, max_new_tokens=4)]


def agree(together: Together, alone: Alone) -> None:
    for ours, wanted in zip(together.streams, alone.streams, strict=True):
        assert [frame.index for frame in ours.waiting] == [frame.index for frame in wanted.waiting]
        assert (ours.frames_seen, ours.now, ours.video) == (wanted.frames_seen, wanted.now, wanted.video)
        assert ours.context.history == wanted.context.history
        assert ours.context.extent == wanted.context.extent
        assert vars(ours.policy)["reduced"] == vars(wanted.policy)["reduced"]
        mine, theirs = ours.stats(), wanted.stats()
        for name in ("frames", "chunks", "questions", "tokens_per_layer", "memory_bytes", "archived_bytes"):
            assert getattr(mine, name) == getattr(theirs, name), name
        assert (mine.encode_ms > 0) == (theirs.encode_ms > 0)
        assert (mine.compress_ms > 0) == (theirs.compress_ms > 0)
        for layer, other in zip(ours.memory, wanted.memory, strict=True):
            assert layer.length == other.length
            assert layer.pending == other.pending == 0
            if layer.length:
                assert torch.equal(layer.origin.id, other.origin.id)
                assert torch.equal(layer.positions, other.positions)
                assert torch.allclose(layer.keys, other.keys, atol=1e-4)
                assert torch.allclose(layer.values, other.values, atol=1e-4)


FAILURES = ["vision", "forward", "interrupt", "reduce", "compress", "admits nothing"]


@pytest.mark.parametrize("where", FAILURES)
@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("newest", 0),
        ("hierarchy", 8),
        pytest.param("newest", 8, marks=pytest.mark.thorough),
        pytest.param("hierarchy", 0, marks=pytest.mark.thorough),
    ],
)
def test_lockstep_agrees_with_sessions_on_every_event(name: str, where: str, seen: int) -> None:
    """A stream that is new, or full, then a failing chunk, then the same frames again and everything else."""
    both: tuple[Together, Alone] = (Together(lambda: policy(name)), Alone(lambda: policy(name)))
    clips = [clip(seed, 0, 30) for seed in range(STREAMS)]

    def each(event: Callable[[Any], object]) -> None:
        found = []
        for driven in both:
            try:
                found.append(event(driven))
            except (RuntimeError, KeyboardInterrupt) as error:
                found.append(type(error))
        assert found[0] == found[1]
        agree(*both)

    if seen:
        each(lambda driven: driven.feed([frames[:seen] for frames in clips]))
        each(lambda driven: driven.ask("What now?"))

    def fails(driven: Any) -> object:
        with broken(tiny("llava_onevision"), [stream.policy for stream in driven.streams], where):
            return driven.feed([frames[seen : seen + CHUNK] for frames in clips])

    each(fails)
    # The frames that wait, and one more.
    each(lambda driven: driven.feed([frames[seen + CHUNK : seen + CHUNK + 1] for frames in clips]))
    each(lambda driven: driven.flush())
    each(lambda driven: driven.ask("Who was it?", stream=1))
    each(lambda driven: driven.feed([frames[seen + CHUNK + 1 :] for frames in clips]))
    each(lambda driven: driven.ask("And then?"))
    each(lambda driven: driven.reset())
    each(lambda driven: driven.feed([frames[:6] for frames in clips]))


def test_frames_that_cannot_be_encoded_are_dropped_as_in_a_session() -> None:
    both: tuple[Together, Alone] = (Together(lambda: policy("newest")), Alone(lambda: policy("newest")))
    mixed = [[*clip(seed, 0, 2), *clip(seed, 2, 2, (36, 64))] for seed in range(STREAMS)]
    for driven in both:
        driven.feed([clip(seed, 0, CHUNK) for seed in range(STREAMS)])
        with pytest.raises(InputError):
            driven.feed(mixed)
    agree(*both)
    for driven in both:
        driven.feed([clip(seed, 8, CHUNK) for seed in range(STREAMS)])
    agree(*both)


def test_a_policy_that_takes_frames_of_some_streams_only_is_refused_and_the_others_go_on() -> None:
    together = Together(lambda: policy("newest"))
    together.feed([clip(seed, 0, CHUNK) for seed in range(STREAMS)])
    together.streams[1].policy.breaks = "admits nothing"  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="some streams only"):
        together.feed([clip(seed, 4, CHUNK) for seed in range(STREAMS)])
    assert [stream.waiting for stream in together.streams] == [[], []]
    assert [stream.frames_seen for stream in together.streams] == [CHUNK, CHUNK]
    together.streams[1].policy.breaks = ""  # type: ignore[attr-defined]
    together.feed([clip(seed, 8, CHUNK) for seed in range(STREAMS)])
    assert [stream.stats().chunks for stream in together.streams] == [2, 2]


def test_a_budget_below_one_frame_is_refused_before_anything_is_read() -> None:
    together = Together(lambda: TieredPolicy(budget=3, tiers={"all": Tier(share=1.0, scorer=Recency())}))
    with pytest.raises(SettingError, match=r"policy\.budget"):
        together.feed([clip(seed, 0, CHUNK) for seed in range(STREAMS)])
    assert [stream.stats().chunks for stream in together.streams] == [0, 0]


def test_an_archiving_policy_of_ones_own_archives_in_lockstep_too() -> None:
    seen: list[tuple[int, int]] = []

    class Noting(Fragile):
        def archive(self, memory: Any, updates: Any, observe: Any) -> None:
            if updates:
                seen.append((memory.batch_size, memory[0].length))

    together = Together(lambda: Noting(budget=60, tiers={"all": Tier(share=1.0, scorer=Recency())}))
    together.feed([clip(seed, 0, 12) for seed in range(STREAMS)])
    # Before the eviction, and of all streams.
    assert seen
    assert all(batch == STREAMS and length > 60 for batch, length in seen)
    with suppress(InputError):
        together.ask("")
    assert together.streams[0].stats().questions == 0
