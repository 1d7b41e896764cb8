"""Decoding in place against transformers' generate."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch

from hermes.attention import folded_sdpa
from hermes.decoding.generation import GenerationConfig
from hermes.decoding.layerwise import same_blocks
from hermes.memory import MemoryConfig
from hermes.policies.hermes import Hermes
from hermes.session.session import StreamSession
from tests.support.families import FAMILIES, make_frames, tiny
from tests.support.tolerances import close

QUESTION = "What is the person doing now?"
pytestmark = pytest.mark.model


def _session(family: str, execution: str, **options: Any) -> StreamSession:
    generation, memory = GenerationConfig(max_new_tokens=12, **options), MemoryConfig(execution=execution)
    session = StreamSession(
        tiny(family), Hermes(budget=60), generation=generation, memory=memory, chunk_frames=8, seed=3
    )
    session.feed(make_frames(24))
    return session


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_static_equals_generate(family: str, sampled: bool) -> None:
    options = {"do_sample": True, "temperature": 0.8, "top_p": 0.9} if sampled else {}
    stock, ours = (_session(family, execution, **options) for execution in ("eager", "static"))
    before = [tensor.clone() for tensor in ours.memory.state()]
    for question in (QUESTION, "And what else, of all the many things?"):
        wanted, answer = stock.ask(question), ours.ask(question)
        assert torch.equal(answer.ids, wanted.ids)
        stock.context.history.clear()
        ours.context.history.clear()
    assert all(torch.equal(a, b) for a, b in zip(before, ours.memory.state(), strict=True))


def test_static_streams_text_and_scores_choices() -> None:
    stock, ours = (_session("llava_onevision", execution) for execution in ("eager", "static"))
    pieces: list[str] = []
    answer = ours.ask(QUESTION, ["red", "blue"], on_text=pieces.append)
    wanted = stock.ask(QUESTION, ["red", "blue"])
    assert "".join(pieces).strip() == answer.answer == wanted.answer
    assert answer.choice == wanted.choice
    assert answer.probabilities is not None
    assert answer.probabilities == pytest.approx(wanted.probabilities, abs=1e-4)


@pytest.mark.thorough
def test_static_compiled() -> None:
    """In a process of its own: the shape checks of these tests cannot be compiled."""
    script = """
import torch
from tests.decoding.test_in_place import QUESTION, _session
ours, stock = (_session("llava_onevision", execution) for execution in ("compile", "eager"))
assert torch.equal(ours.ask(QUESTION).ids, stock.ask(QUESTION).ids)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "graph break" not in done.stderr


@pytest.mark.parametrize("option", ["beams", "probe", "generate"])
def test_static_falls_back_with_a_reason(option: str, caplog: pytest.LogCaptureFixture) -> None:
    from hermes.attention import AttentionMass

    session = _session("llava_onevision", "static")
    given: dict[str, Any] = {
        "beams": {"num_beams": 2},
        "probe": {"probe": AttentionMass(only=[0])},
        "generate": {"no_repeat_ngram_size": 3},
    }[option]
    with caplog.at_level(logging.WARNING):
        session.ask(QUESTION, **given)
    reason = {"beams": "beam search", "probe": "a probe", "generate": "no_repeat_ngram_size"}[option]
    assert reason in caplog.text


def test_static_refuses_other_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny("llava_onevision")
    assert same_blocks(backbone)
    block = backbone.decoder.layers[0]
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda *args, **kwargs: 1.01 * forward(*args, **kwargs))
    assert not same_blocks(backbone)


@pytest.mark.parametrize("queries", [1, 5])
def test_static_folded_attention(queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, count, 16, generator=generator)
        for heads, count in ((6, queries), (2, 9), (2, 9))
    )
    mask = torch.rand(queries, 9, generator=generator) < 0.7
    mask[:, 0] = True
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    close("attention", folded_sdpa(query, key, value, mask, 0.25), wanted.transpose(1, 2))
