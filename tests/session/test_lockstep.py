"""Streams in lockstep against the same streams alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from hermes.errors import InputError
from hermes.policies.fifo import Fifo
from hermes.policies.hermes import Hermes
from hermes.policy import MemoryPolicy
from hermes.session.answer import Answer
from hermes.session.lockstep import BatchedSession
from hermes.session.session import StreamSession
from hermes.video import Frame
from tests.support.families import tiny

pytestmark = pytest.mark.model
STREAMS, QUESTION = 3, "What is the person doing now?"


def _clip(seed: int, count: int = 24) -> list[Frame]:
    rng = np.random.default_rng(seed)
    return [Frame(rng.integers(0, 256, (72, 128, 3), np.uint8), i / 2, i) for i in range(count)]


def _alone(family: str, policy: MemoryPolicy, seed: int) -> tuple[StreamSession, list[Answer]]:
    session = StreamSession(tiny(family), policy, fps=2.0, chunk_frames=4)
    clip = _clip(seed)
    session.feed(clip[:12])
    # Streams are asked different things: their guidance differs from here on.
    early = session.ask(f"What is {seed}?", max_new_tokens=8)
    session.feed(clip[12:])
    return session, [early, session.ask(QUESTION, max_new_tokens=8)]


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("name", ["hermes", "fifo"])
def test_batch_equals_single_streams(family: str, name: str) -> None:
    def policy() -> MemoryPolicy:
        return Hermes(budget=60) if name == "hermes" else Fifo(budget=60)

    together = BatchedSession(tiny(family), policy(), STREAMS, fps=2.0, chunk_frames=4)
    clips = [_clip(seed) for seed in range(STREAMS)]
    with together:
        together.feed([clip[:12] for clip in clips])
        early = [together.ask(f"What is {i}?", stream=i, max_new_tokens=8)[0] for i in range(STREAMS)]
        together.feed([clip[12:] for clip in clips])
        before = [tensor.clone() for tensor in together.memory.state()]
        late = together.ask(QUESTION, max_new_tokens=8)
        assert all(torch.equal(a, b) for a, b in zip(before, together.memory.state(), strict=True))
    for seed in range(STREAMS):
        session, answers = _alone(family, policy(), seed)
        mine = together.memory.select([seed])
        for ours, wanted in zip(mine.layers, session.memory.layers, strict=True):
            assert torch.equal(ours.origin.id, wanted.origin.id)
            assert torch.equal(ours.positions, wanted.positions)
            assert torch.allclose(ours.keys, wanted.keys, atol=1e-4)
        assert mine.next_position == session.memory.next_position
        assert [early[seed].answer, late[seed].answer] == [answer.answer for answer in answers]
        assert torch.equal(late[seed].ids, answers[1].ids)


def test_batch_streams_reindex_at_their_own_time() -> None:
    """Clocks of streams differ: each re-indexes when it would alone."""
    policy = Hermes(budget=60)
    policy.reindex.margin = 32768 - 150
    together = BatchedSession(tiny("llava_onevision"), policy, STREAMS, fps=2.0, chunk_frames=4)
    together.feed([_clip(seed, 40) for seed in range(STREAMS)])
    for seed in range(STREAMS):
        alone = Hermes(budget=60)
        alone.reindex.margin = 32768 - 150
        session = StreamSession(tiny("llava_onevision"), alone, fps=2.0, chunk_frames=4)
        session.feed(_clip(seed, 40))
        for ours, wanted in zip(together.memory.select([seed]).layers, session.memory.layers, strict=True):
            assert torch.equal(ours.positions, wanted.positions)
            assert torch.allclose(ours.keys, wanted.keys, atol=1e-4)


def test_batch_refuses_streams_out_of_step() -> None:
    together = BatchedSession(tiny("llava_onevision"), Fifo(budget=60), 2)
    with pytest.raises(InputError, match="equally many"):
        together.feed([_clip(0, 3), _clip(1, 2)])
    with pytest.raises(InputError, match="2 streams were opened, and 1"):
        together.feed([_clip(0, 3)])
    with pytest.raises(InputError, match="streams 0 to 1"):
        together.ask(QUESTION, stream=2)


def test_batch_takes_chunks_that_are_embedded_already() -> None:
    backbone = tiny("llava_onevision")
    together = BatchedSession(backbone, Fifo(budget=60), 2, fps=2.0)
    alone = [StreamSession(backbone, Fifo(budget=60), fps=2.0) for _ in range(2)]
    for number in range(3):
        chunks = []
        for seed, session in enumerate(alone):
            session.write_prefix()
            chunks.append(
                backbone.video(_clip(seed, 12)[4 * number :][:4], copy.copy(session.video), fps=2.0)
            )
            session.feed_chunk(chunks[-1])
        together.feed_chunk(chunks)
    for ours, session in zip(together.streams, alone, strict=True):
        assert (ours.frames_seen, ours.now) == (session.frames_seen, session.now) == (12, 6.0)
        assert ours.stats().chunks == session.stats().chunks == 3
        for layer, other in zip(ours.memory, session.memory, strict=True):
            assert torch.equal(layer.positions, other.positions)
            assert torch.allclose(layer.keys, other.keys, atol=1e-4)
    with pytest.raises(InputError, match="2 streams were opened, and 1"):
        together.feed_chunk(chunks[:1])
    assert [stream.frames_seen for stream in together.streams] == [12, 12]
