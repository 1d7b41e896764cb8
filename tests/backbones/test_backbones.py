"""Model families: chunks against one shot, native layouts against stock `generate`, and the decoder."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

from hermes.backbone import Backbone, load_backbone, prepare, prepare_patches
from hermes.tokens import Chunk, Provenance, TokenKind, VideoState
from hermes.video import Frame
from tests.support.families import (
    NEW_TOKENS,
    QUESTION,
    absolute,
    answer,
    each_family,
    encode,
    make_frames,
    tiny,
)
from tests.support.tolerances import close

pytestmark = pytest.mark.model


@each_family
@pytest.mark.parametrize("layout", ["stream", "native"])
@pytest.mark.parametrize("cuts", [[2, 4, 6], [2], [6]], ids=str)
def test_a_stream_in_chunks_is_the_stream_in_one(family, layout, cuts):
    backbone, frames = tiny(family, layout), make_frames(7)
    (_, *parts), ended = encode(backbone, frames, cuts, fps=2.0)
    (_, whole), state = encode(backbone, frames, [], fps=2.0)
    close("one_shot", torch.cat([part.embeds for part in parts], dim=1), whole.embeds)
    assert torch.equal(Provenance.cat([part.tokens for part in parts]).table, whole.tokens.table)
    for level, expected in enumerate(whole.deepstack):
        close("one_shot", torch.cat([part.deepstack[level] for part in parts], dim=1), expected)
    assert (ended.frames, ended.groups, ended.next_id) == (state.frames, state.groups, state.next_id)
    if family != "qwen2_5_vl" or layout == "native":
        assert torch.equal(absolute(parts), absolute([whole]))
        assert sum(part.advance for part in parts) == whole.advance == state.advanced


@each_family
def test_what_a_chunk_says_of_its_tokens(family):
    backbone, frames = tiny(family), make_frames(5)
    (prefix, chunk), state = encode(backbone, frames, [], fps=2.0)
    tokens = chunk.tokens
    assert len(chunk) == len(tokens) == chunk.positions.shape[-1]
    assert chunk.frames == 5 == state.frames
    assert tokens.id.tolist() == list(range(len(prefix), state.next_id))
    group = backbone.frames_per_group
    assert sorted(set(tokens.frame.tolist())) == list(range(0, 5, group))
    assert tokens.time.tolist() == [frame / 2.0 for frame in tokens.frame.tolist()]
    visual = tokens.kind == int(TokenKind.VISUAL)
    rows, cols = (3, 3) if family == "llava_onevision" else (2, 4)
    for first in range(0, 5, group):
        here = visual & (tokens.frame == first)
        assert (tokens.row[here] * cols + tokens.col[here]).tolist() == list(range(rows * cols))
    assert set(tokens.kind[~visual].tolist()) <= {int(TokenKind.TIMESTAMP)}
    assert bool(visual.all()) == (family != "qwen3_vl")
    assert not tokens.protected.any()
    # Of Qwen3-VL, with the timestamp of a time of seven digits.
    cost = {"llava_onevision": 9, "qwen2_5_vl": 4, "qwen3_vl": 11}[family]
    assert backbone.tokens_per_frame(72, 128) == cost
    late = [replace(frame, time=12_345.0 + frame.time) for frame in make_frames(2)]
    assert len(backbone.video(late, VideoState(), fps=2.0)) <= 2 * cost
    assert len(chunk) <= state.groups * group * backbone.tokens_per_frame(72, 128)


@each_family
def test_selecting_tokens_keeps_everything_of_them(family):
    backbone = tiny(family)
    chunk = encode(backbone, make_frames(4), [], fps=2.0)[0][1]
    index = torch.tensor([1, 5, len(chunk) - 1])
    part = chunk.select(index)
    assert torch.equal(part.embeds, chunk.embeds[:, index])
    assert torch.equal(part.positions, chunk.positions[:, index])
    extra = backbone.prefill_kwargs(part)
    if family == "qwen3_vl":
        assert extra["visual_pos_masks"].tolist() == [(part.tokens.kind == int(TokenKind.VISUAL)).tolist()]
        assert len(extra["deepstack_visual_embeds"]) == len(chunk.deepstack) == 2
        kept = chunk.deepstack[0][0, index][part.tokens.kind == int(TokenKind.VISUAL)]
        assert torch.equal(extra["deepstack_visual_embeds"][0], kept)
    else:
        assert extra == {}


def test_llava_stream_positions_count_tokens():
    parts = encode(tiny("llava_onevision"), make_frames(4), [1], fps=0.5)[0]
    assert absolute(parts).tolist() == [list(range(sum(map(len, parts))))]
    assert len(parts[1]) == parts[1].advance == 9


def test_qwen2_5_stream_positions_are_floats_from_the_chunks_start():
    parts = encode(tiny("qwen2_5_vl"), make_frames(7), [4], fps=3.0)[0][1:]
    # Two frames of 1/3 s, two positions a second; never truncated.
    step = 2 / 3.0 * 2
    for part, groups in zip(parts, (2, 2), strict=True):
        time, row, column = part.positions.view(3, groups, 2, 4)
        assert time[:, 0, 0].tolist() == pytest.approx([step * g for g in range(groups)])
        assert row[0].tolist() == [[0] * 4, [1] * 4]
        assert column[1].tolist() == [[0, 1, 2, 3]] * 2
        assert part.advance == 4
    (long,) = encode(tiny("qwen2_5_vl"), make_frames(8), [], fps=1.0)[0][1:]
    assert long.positions[0].max() == 12
    assert long.advance == 13


@pytest.mark.parametrize("layout", ["stream", "native"])
def test_qwen3_positions_are_the_familys_own(layout):
    backbone = tiny("qwen3_vl", layout)
    chunks = encode(backbone, make_frames(7), [4], fps=2.0)[0]
    kinds = torch.cat([chunk.tokens.kind for chunk in chunks])
    types = (kinds == int(TokenKind.VISUAL)).long().unsqueeze(0) * 2
    stock, _ = backbone.model.model.get_rope_index(
        torch.zeros_like(types), mm_token_type_ids=types, video_grid_thw=torch.tensor([[4, 4, 8]])
    )
    assert torch.equal(absolute(chunks), stock[:, 0].float())


def test_qwen3_timestamps_are_written_before_each_pair():
    backbone = tiny("qwen3_vl")
    _, chunk = encode(backbone, make_frames(3), [], fps=2.0)[0]
    stamps = [backbone.encode(f"<{time} seconds><|vision_start|>") for time in ("0.2", "1.0")]
    kinds, visual, marker = chunk.tokens.kind.tolist(), [int(TokenKind.VISUAL)] * 8, int(TokenKind.TIMESTAMP)
    lengths = [stamp.shape[1] for stamp in stamps]
    assert kinds == [marker] * lengths[0] + visual + [marker] * (1 + lengths[1]) + visual + [marker]
    assert torch.equal(chunk.embeds[:, : lengths[0]], backbone.embed(stamps[0]))
    assert torch.equal(chunk.embeds[:, -1:], backbone.embed(backbone.encode("<|vision_end|>")))
    assert not any(level[:, : lengths[0]].any() for level in chunk.deepstack)


def stock_inputs(backbone: Backbone, frames: list[Frame], fps: float) -> dict[str, torch.Tensor]:
    """What transformers' own processor gives for the frames and the question; the pixels are ours."""
    module = {
        "llava_onevision": ("llava_onevision.processing_llava_onevision", "LlavaOnevisionProcessor"),
        "qwen2_5_vl": ("qwen2_5_vl.processing_qwen2_5_vl", "Qwen2_5_VLProcessor"),
        "qwen2_vl": ("qwen2_vl.processing_qwen2_vl", "Qwen2VLProcessor"),
        "qwen3_vl": ("qwen3_vl.processing_qwen3_vl", "Qwen3VLProcessor"),
        "qwen3_5": ("qwen3_vl.processing_qwen3_vl", "Qwen3VLProcessor"),
        "qwen3_5_moe": ("qwen3_vl.processing_qwen3_vl", "Qwen3VLProcessor"),
    }[backbone.model.config.model_type]
    processor = getattr(importlib.import_module(f"transformers.models.{module[0]}"), module[1])
    model_type = backbone.model.config.model_type
    inputs: dict[str, torch.Tensor] = {}
    if model_type == "llava_onevision":
        inputs["pixel_values_videos"] = prepare(frames, backbone.recipe).unsqueeze(0)
    else:
        pixels, grid = prepare_patches(frames, backbone.recipe, torch.zeros(1))
        inputs |= {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([grid])}
    if model_type == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([2 / fps])
    # A stand-in for `self`: the real one needs torchvision to be built.
    stand_in = SimpleNamespace(
        num_image_tokens=36,
        video_token=backbone.video_marker,
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        _calculate_timestamps=lambda *given: processor._calculate_timestamps(None, *given),
    )
    metadata = SimpleNamespace(fps=fps, frames_indices=[frame.index for frame in frames])
    video = processor.replace_video_token(stand_in, {**inputs, "video_metadata": [metadata]}, 0)
    system = {"role": "system", "content": [{"type": "text", "text": backbone.config.system_prompt}]}
    user = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}
    text = backbone.tokenizer.apply_chat_template([system, user], tokenize=False, add_generation_prompt=True)
    ids = backbone.encode(text.replace(backbone.video_marker, video))
    if model_type != "llava_onevision":
        is_video = ids == backbone.tokenizer.convert_tokens_to_ids(backbone.video_marker)
        inputs["mm_token_type_ids"] = is_video.long() * 2
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **inputs}


@each_family
@pytest.mark.parametrize(
    ("count", "cuts", "fps"),
    [(8, [], 2.0), (7, [2, 6], 2.0), (20, [4, 6], 1.0), (6, [2], 3.0), (8, [4], 8.0)],
)
def test_native_layout_answers_like_stock_generate(family, count, cuts, fps):
    backbone, frames = tiny(family, "native"), make_frames(count, fps)
    inputs = stock_inputs(backbone, frames, fps)
    stock = backbone.model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    chunks, state = encode(backbone, frames, cuts, fps)
    tokens, logits = answer(backbone, chunks, state)
    close("one_shot", logits, stock.logits[0][0])
    assert tokens.tolist() == stock.sequences[0, inputs["input_ids"].shape[1] :].tolist()


@each_family
def test_a_wrong_position_shows(family):
    backbone = tiny(family, "native")
    chunks, state = encode(backbone, make_frames(8), [], 2.0)
    _, right = answer(backbone, chunks, state)
    # All of the video shifted by 7: only its distance to the prefix and the question changes.
    moved = [chunks[0], Chunk(**{**vars(chunks[1]), "positions": chunks[1].positions + 7})]
    _, wrong = answer(backbone, moved, state)
    assert (right - wrong).abs().max() > 0.05 * right.std()


def test_closing_is_the_image_newline_of_the_native_llava():
    backbone = tiny("llava_onevision", "native")
    assert backbone.closing(VideoState()) is None
    newline = backbone.closing(VideoState(frames=1))
    assert newline is not None
    assert torch.equal(newline[0, 0], backbone.model.model.image_newline)
    for other in (tiny("llava_onevision"), tiny("qwen2_5_vl", "native"), tiny("qwen3_vl", "native")):
        assert other.closing(VideoState(frames=1)) is None


@each_family
@torch.no_grad()
def test_project_gives_the_layers_own_queries_and_keys(family):
    backbone = tiny(family)
    hidden = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    query, key = backbone.project(3, hidden)
    assert query.shape[:3] == (2, 4, 5)
    assert key.shape[:3] == (2, backbone.num_kv_heads, 5)
    # At position 0 the rotation is the identity, so that the cache holds the key as projected.
    block, cache = backbone.decoder.layers[3], DynamicCache()
    zeros = torch.zeros(backbone.axes, 2, 5) if backbone.axes > 1 else torch.zeros(2, 5)
    cos, sin = backbone.decoder.rotary_emb(hidden, zeros)
    block(hidden, position_embeddings=(cos, sin), past_key_values=cache, attention_mask=None)
    close("attention", key, cache.layers[3].keys)
    assert query.abs().max() > 1


@each_family
def test_tiny_attention_is_far_from_uniform(family):
    backbone = tiny(family)
    hidden = backbone.embed(
        backbone.encode("Describe the current scene in detail: the objects, the actions.")
    )
    query, key = backbone.project(0, hidden)
    repeated = key.repeat_interleave(2, dim=1)
    scores = query @ repeated.transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = scores.softmax(-1)
    assert torch.isfinite(scores).all()
    assert weights.max(-1).values.mean() > 4 / hidden.shape[1]


@each_family
def test_the_seed_decides_the_weights_and_nothing_else_is_touched(family):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    same, other = (load_backbone({"family": f"tiny_{family}", "seed": seed}) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, weight in tiny(family).model.state_dict().items():
        assert torch.equal(weight, same.model.state_dict()[name]), name
    embedding = "model.language_model.embed_tokens.weight"
    assert not torch.equal(same.model.state_dict()[embedding], other.model.state_dict()[embedding])
    assert not any(parameter.requires_grad for parameter in same.model.parameters())
    assert not same.model.training
