"""Decoders of windows and full attention: against stock `generate`, and ragged against a dense one."""

from __future__ import annotations

import pytest
import torch

from hermes.attention import Guidance
from hermes.backbone import self_check
from hermes.decoding.generation import GenerationConfig
from hermes.decoding.observer import DecoderObserver
from hermes.policies.full import Full
from hermes.session.session import StreamSession
from tests.backbones.test_backbones import stock_inputs
from tests.support.families import NEW_TOKENS, QUESTION, answer, encode, make_frames
from tests.support.memory_cases import held_beside
from tests.support.references import cloned, identical
from tests.support.tiny_windowed import DenseWindowed, tiny_windowed
from tests.support.tolerances import close

pytestmark = pytest.mark.model


@pytest.mark.parametrize(("count", "cuts"), [(8, [2, 6]), (9, [1])])
def test_native_layout_answers_like_stock_generate(count, cuts):
    backbone, frames = tiny_windowed("native"), make_frames(count, 2.0)
    inputs = stock_inputs(backbone, frames, 2.0)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    stock = backbone.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    expected = stock.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chunks, state = encode(backbone, frames, cuts, 2.0)
    tokens, logits = answer(backbone, chunks, state)
    close("one_shot", logits, stock.logits[0][0])
    assert tokens.tolist() == expected

    session = StreamSession(
        backbone,
        Full(),
        fps=2.0,
        chunk_frames=3,
        generation=GenerationConfig(NEW_TOKENS, repetition_penalty=1),
    )
    session.feed(frames)
    assert session.ask(QUESTION).ids.tolist() == expected


def streamed(heads: int = 1, chunks: int = 3):
    backbone = tiny_windowed()
    dense, lengths = DenseWindowed(backbone), ((0, 5), (1, 20), (2, 12), (3, 3), (4, 9))[: chunks + 1]
    memory = held_beside(backbone, dense, heads=heads, lengths=lengths, compacted=(2, 3))
    return backbone, memory, dense


@pytest.mark.parametrize("heads", [1, 2])
def test_a_ragged_memory_beside_windows_is_a_dense_one(heads):
    streamed(heads, chunks=4)


def test_attention_of_pseudo_queries_is_that_of_each_alone():
    backbone, memory, dense = streamed()
    before = cloned(memory)
    texts = ["What happened?", "What is the person doing now?", "Who?"]
    asked = [Guidance(text, "exact") for text in texts]
    found = DecoderObserver(backbone, memory).attention({0: asked, 1: asked[:2]})
    assert identical(memory, before)
    assert len(found) == 5
    for text, guidance in zip(texts[:1], asked, strict=False):
        embeds = backbone.embed(backbone.encode_plain(text))
        steps = torch.arange(float(embeds.shape[1])).expand(backbone.axes, -1)
        _, weights = dense.run(embeds[0], steps)
        for index in (0, 1):
            held = memory[index].length
            mean = weights[index][..., :held].mean((0, 1))[memory.prefix :]
            close("observed", found[index, guidance][0, 0], mean.float())


def test_the_self_check_understands_it():
    assert max(self_check(tiny_windowed()).values()) < 1e-4
