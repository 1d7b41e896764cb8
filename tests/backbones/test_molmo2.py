"""Molmo2 against stock `generate` on the same pixels, in one chunk, and against a dense decoder."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from hermes.backbone import BackboneConfig, load_backbone, self_check
from hermes.decoding.generation import GenerationConfig
from hermes.errors import UnsupportedModelError
from hermes.policies.full import Full
from hermes.session.session import StreamSession
from hermes.tokens import TokenKind
from tests.support.families import NEW_TOKENS, QUESTION, answer, encode, make_frames
from tests.support.memory_cases import random_update
from tests.support.references import cloned, identical, new_memory, noise_chunk, prefill
from tests.support.tiny_models import tiny_checkpoint, tiny_model
from tests.support.tiny_molmo2 import DenseMolmo2, whole_prompt
from tests.support.tolerances import close

pytestmark = pytest.mark.model

each_kind = pytest.mark.parametrize("name", ["molmo2", "molmo2_o"])


@each_kind
@pytest.mark.parametrize("count", [1, 7])
def test_a_video_in_one_chunk_is_answered_like_stock_generate(name, count):
    backbone, frames = tiny_model(name), make_frames(count)
    inputs = whole_prompt(backbone, frames, QUESTION)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    stock = backbone.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    expected = stock.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chunks, state = encode(backbone, frames, [], 2.0)
    tokens, logits = answer(backbone, chunks, state)
    close("one_shot", logits, stock.logits[0][0])
    assert tokens.tolist() == expected

    generation = GenerationConfig(NEW_TOKENS, repetition_penalty=1)
    session = StreamSession(backbone, Full(), fps=2, chunk_frames=count, generation=generation)
    session.feed(frames)
    assert session.ask(QUESTION).ids.tolist() == expected


def test_a_frame_sees_those_behind_it_in_its_chunk_alone():
    backbone, frames = tiny_model("molmo2"), make_frames(4)
    whole, state = encode(backbone, frames, [], 2.0)
    cut, other = encode(backbone, frames, [2], 2.0)
    assert torch.equal(whole[1].embeds, torch.cat([chunk.embeds for chunk in cut[1:]], dim=1))
    _, seen = answer(backbone, whole, state)
    _, apart = answer(backbone, cut, other)
    assert (seen - apart).abs().max() > 0.05 * seen.std()


@each_kind
@pytest.mark.parametrize("heads", [1, 2])
def test_a_ragged_memory_is_a_dense_one(name, heads):
    backbone, rng = tiny_model(name, "stream"), random.Random(3)
    memory, dense = new_memory(backbone), DenseMolmo2(backbone)
    for seed, length in ((0, 5), (1, 20), (2, 12), (3, 9)):
        chunk = noise_chunk(backbone, length, seed, first_id=100 * seed, text=seed == 0)
        if seed:
            chunk.tokens.kind[4::7] = int(TokenKind.TIMESTAMP)
        ours = prefill(backbone, memory, chunk, prefix=seed == 0)
        close("one_shot", ours[0], dense.read(chunk).float())
        dense.memory.prefix = memory.prefix
        if seed:
            updates = {layer.index: random_update(rng, layer, heads=heads) for layer in memory}
            memory.apply(updates, compact=seed == 2)
            dense.memory.apply(updates, seed == 2)


@each_kind
def test_what_is_read_of_a_frame(name, tmp_path):
    backbone = tiny_model(name, "stream")
    (_, chunk), state = encode(backbone, make_frames(3), [], 2.0)
    visual = chunk.tokens.kind == int(TokenKind.VISUAL)
    assert int(visual.sum()) == 3 * 4
    assert {(int(row), int(col)) for row, col in zip(chunk.tokens.row, chunk.tokens.col, strict=True)} == {
        (-1, -1),
        *((row, col) for row in (0, 1) for col in (0, 1)),
    }
    # Each frame's tokens and the two around them.
    assert int(backbone.attend_both_ways(chunk).sum()) == 3 * 6
    assert len(chunk) <= 3 * backbone.tokens_per_frame(72, 128)
    assert state.next_id == len(chunk) + len(backbone.encode(backbone.prefix_text())[0])
    assert max(self_check(backbone).values()) < 1e-4
    assert backbone.fps == 2


@each_kind
def test_a_saved_stream_goes_on_as_the_stream_itself(name, tmp_path):
    options: dict[str, Any] = {"fps": 2, "chunk_frames": 2, "generation": GenerationConfig(4)}
    frames = make_frames(8)
    session, other = (StreamSession(tiny_model(name, "stream"), Full(), **options) for _ in "ab")
    session.feed(frames[:4])
    fork = session.memory.fork()
    before = cloned(fork)
    session.save(tmp_path / "stream")
    other.resume(tmp_path / "stream")
    for stream in (session, other):
        stream.feed(frames[4:])
    assert identical(fork, before)
    assert identical(other.memory, cloned(session.memory))


def test_tokens_that_are_not_squares_are_refused():
    config = BackboneConfig(checkpoint=str(tiny_checkpoint("molmo2")))
    found: Any = tiny_model("molmo2")
    settings = {**found.preprocessor, "pooling_size": [2, 3]}
    with pytest.raises(UnsupportedModelError, match=r"pixels: pooling_size \[2, 3\]"):
        type(found)(found.model, found.tokenizer, config, preprocessor=settings)
    assert type(load_backbone(config)) is type(found)
