"""End-to-end paths on the CPU, not in a default run: ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import endless
from hermes.backbone import Backbone, BackboneConfig
from hermes.backbones.tiny import TinyLlavaOnevision
from hermes.decoding.generation import GenerationConfig
from hermes.memory import MemoryConfig
from hermes.policies.hermes import Hermes
from hermes.session.lockstep import BatchedSession
from hermes.session.session import StreamSession
from hermes.tokens import Chunk

FRAMES, PER_FRAME = 4, 9


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.set_num_threads(1)
    return TinyLlavaOnevision.load(BackboneConfig(family="tiny_llava_onevision", device="cpu"))


def _chunks(seed: int) -> Any:
    """Endless small chunks."""
    generator, number = torch.Generator().manual_seed(seed), 0
    while True:
        whole = endless.chunk(number, 64, generator)
        part = whole.select(torch.arange(FRAMES * PER_FRAME))
        yield Chunk(part.embeds, part.positions, FRAMES * PER_FRAME, part.tokens, FRAMES)
        number += 1


def _fill(step: Any, times: int = 30) -> None:
    for _ in range(times):
        step()


def test_single_stream_step(backbone: Backbone, benchmark: Any) -> None:
    chunks = _chunks(0)
    with StreamSession(backbone, Hermes(budget=64)) as session:
        _fill(lambda: session.feed_chunk(next(chunks)))
        benchmark.pedantic(lambda: session.feed_chunk(next(chunks)), rounds=60)


def test_four_streams_in_lockstep_step(backbone: Backbone, benchmark: Any) -> None:
    streams = [_chunks(seed) for seed in range(4)]
    with BatchedSession(backbone, Hermes(budget=64), 4) as session:
        _fill(lambda: session.feed_chunk([next(chunks) for chunks in streams]))
        benchmark.pedantic(lambda: session.feed_chunk([next(chunks) for chunks in streams]), rounds=60)


@pytest.mark.parametrize("execution", ["eager", "static", "compile"])
def test_answer_of_16_tokens(backbone: Backbone, benchmark: Any, execution: Any) -> None:
    chunks = _chunks(0)
    generation = GenerationConfig(max_new_tokens=16)
    memory = MemoryConfig(execution=execution)
    with StreamSession(backbone, Hermes(budget=64), generation=generation, memory=memory) as session:
        _fill(lambda: session.feed_chunk(next(chunks)))
        session.ask("What now?")
        benchmark.pedantic(lambda: session.ask("What now?"), rounds=30)
