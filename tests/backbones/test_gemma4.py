"""Gemma 4 against stock `generate` on the same pixels, padded as its own processor pads them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from hermes.attention import memory_attention_set, reading
from hermes.backbone import self_check
from hermes.decoding.generation import GenerationConfig
from hermes.decoding.prefill import prefill
from hermes.policies.full import Full
from hermes.policies.hermes import Hermes
from hermes.session.session import StreamSession
from hermes.tokens import TokenKind
from tests.support.families import NEW_TOKENS, QUESTION, encode, make_frames
from tests.support.memory_cases import random_update
from tests.support.references import cloned, identical, new_memory, noise_chunk
from tests.support.references import prefill as written
from tests.support.tiny_gemma4 import DenseGemma4
from tests.support.tiny_models import tiny_model
from tests.support.tolerances import close

pytestmark = pytest.mark.model

each_size = pytest.mark.parametrize("name", ["gemma4", "gemma4_small"])


def stock_inputs(backbone: Any, frames: list[Any]) -> dict[str, Any]:
    values, at = backbone.patches(frames)
    seen = f"<|image>{'<|video|>' * (at.shape[1] // 4)}<image|>"
    times = [f"{int(frame.time // 60):02d}:{int(frame.time % 60):02d}" for frame in frames]
    written = " ".join(f"{time} {seen}" for time in times)
    parts = backbone.native_parts
    ids = backbone.encode(f"{parts.prefix}{written}{parts.before}{QUESTION}{parts.after}")
    more = 6 * 4 + 8 - at.shape[1]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == backbone.processor.video_token_id).long(),
        "pixel_values_videos": pad(values, (0, 0, 0, more)),
        "video_position_ids": pad(at, (0, 0, 0, more), value=-1),
        "num_frames_per_video": torch.tensor([len(frames)]),
    }


@each_size
@pytest.mark.parametrize(("count", "cuts"), [(8, [2, 5]), (5, [1])])
def test_native_layout_answers_like_stock_generate(name, count, cuts):
    backbone, frames = tiny_model(name), make_frames(count, 0.1)
    inputs = stock_inputs(backbone, frames)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    stock = backbone.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    expected = stock.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chunks, _ = encode(backbone, frames, cuts, 0.1)
    memory = backbone.new_memory()
    for chunk in chunks:
        prefill(backbone, memory, chunk, prefix=not memory.prefix)
    question = backbone.embed(backbone.encode(backbone.question_text(QUESTION)))
    at = memory.next_position + torch.arange(float(question.shape[1]))[None]
    with torch.no_grad(), memory_attention_set(backbone.model), reading(memory):
        hidden = backbone.run(question, at, memory).last_hidden_state
    close("one_shot", backbone.model.lm_head(hidden[0, -1]), stock.logits[0][0])
    generation = GenerationConfig(NEW_TOKENS, repetition_penalty=1)
    session = StreamSession(backbone, Full(), fps=0.1, chunk_frames=3, generation=generation)
    session.feed(frames)
    assert session.ask(QUESTION).ids.tolist() == expected


@each_size
def test_what_is_read_of_a_frame(name):
    backbone = tiny_model(name, "stream")
    (_, chunk), _ = encode(backbone, make_frames(3, 0.1), [], 0.1)
    visual = chunk.tokens.kind == int(TokenKind.VISUAL)
    assert int(visual.sum()) == 3 * int(chunk.tokens.row.max() + 1) * int(chunk.tokens.col.max() + 1)
    assert len(chunk) <= 3 * backbone.tokens_per_frame(*make_frames(1)[0].image.shape[:2])
    assert max(self_check(backbone).values()) < 1e-4


@pytest.mark.parametrize(("name", "heads"), [("gemma4", 1), ("gemma4_small", 1), ("gemma4_small", 2)])
def test_a_ragged_memory_is_a_dense_one(name, heads):
    backbone, rng = tiny_model(name, "stream"), random.Random(3)
    memory, dense = new_memory(backbone), DenseGemma4(backbone)
    for seed, length in ((0, 5), (1, 20), (2, 13), (3, 3), (4, 9)):
        chunk = noise_chunk(backbone, length, seed, first_id=100 * seed, text=seed == 0)
        if seed:
            # Several pictures a chunk, one of them larger than a window.
            chunk.tokens.kind[4::15] = int(TokenKind.TIMESTAMP)
        ours = written(backbone, memory, chunk, prefix=seed == 0)
        close("one_shot", ours[0], dense.run(chunk).float())
        dense.memory.prefix = memory.prefix
        if seed:
            updates = {layer.index: random_update(rng, layer, heads=heads) for layer in memory}
            memory.apply(updates, compact=seed in (2, 3))
            dense.memory.apply(updates, seed in (2, 3))


@each_size
def test_a_fork_and_a_saved_stream_go_on_as_the_stream_itself(name, tmp_path):
    options: dict[str, Any] = {"fps": 0.1, "chunk_frames": 2, "generation": GenerationConfig(4)}
    frames = make_frames(10, 0.1)
    session, other = (StreamSession(tiny_model(name, "stream"), Hermes(budget=30), **options) for _ in "ab")
    session.feed(frames[:6])
    before, fork = cloned(session.memory), session.memory.fork()
    assert identical(fork, before)
    session.save(tmp_path / "stream")
    other.resume(tmp_path / "stream")
    assert identical(other.memory, before)
    for stream in (session, other):
        stream.feed(frames[6:])
    assert identical(fork, before)
    assert identical(other.memory, cloned(session.memory))
    assert session.ask(QUESTION).ids.tolist() == other.ask(QUESTION).ids.tolist()
