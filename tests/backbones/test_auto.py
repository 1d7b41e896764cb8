"""Models that no file of ours knows: against stock `generate` on the same pixels, and what is refused."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from hermes.backbone import (
    Backbone,
    BackboneConfig,
    load_backbone,
    prepare_patches,
    save_checkpoint,
    self_check,
)
from hermes.backbones.minicpm_v import MiniCPMV
from hermes.decoding.generation import GenerationConfig
from hermes.errors import UnsupportedModelError
from hermes.policies.full import Full
from hermes.session.session import StreamSession
from hermes.tokens import TokenKind, VideoState
from tests.support.families import NEW_TOKENS, QUESTION, answer, encode, make_frames, tiny
from tests.support.memory_cases import held_beside
from tests.support.references import DenseDecoder
from tests.support.tiny_minicpm import DenseMiniCPM
from tests.support.tiny_models import TINY, tiny_model
from tests.support.tolerances import close

pytestmark = pytest.mark.model

# Their channels lie otherwise: tests of their own.
PAIRED = ("glm4v", "glm46v")

each_model = pytest.mark.parametrize("name", TINY)


def stock_inputs(backbone: Any, frames: list[Any]) -> dict[str, Any]:
    """What transformers' own processor gives for the whole video, the text cut into tokens at once."""
    group = backbone.frames_per_group
    times = [
        [
            frame.time
            for frame in [*frames[i : i + group], *[frames[-1]] * (group - len(frames[i : i + group]))]
        ]
        for i in range(0, len(frames), group)
    ]
    shape, parts = backbone._shape(*frames[0].image.shape[:2]), backbone.native_parts

    def asked(written: str) -> torch.Tensor:
        return backbone.encode(f"{parts.prefix}{written}{parts.before}{QUESTION}{parts.after}")

    ids = asked(backbone.prompt.whole(times, shape))
    weight = next(backbone.core.parameters())
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if isinstance(backbone, MiniCPMV):
        strips, sizes = backbone.strips(frames)
        return {**inputs, "pixel_values_videos": strips, "target_sizes_videos": sizes}
    if not backbone._patches:
        pixels = backbone.pictures(frames)
        if "pixel_values_videos" in inspect.signature(backbone.core.forward).parameters:
            return {**inputs, "pixel_values_videos": pixels[None]}
        return {**inputs, "pixel_values": pixels[(None,) * backbone._batched]}
    patches, grid = prepare_patches(frames, backbone.recipe, weight)
    inputs |= {"pixel_values_videos": patches, "video_grid_thw": torch.tensor([grid])}
    if "video_merge_sizes" in backbone._asked:
        inputs["video_merge_sizes"] = torch.tensor([backbone.recipe.merge_size])
        inputs["video_compression_mask"] = kept = torch.cat(backbone.kept(patches, grid, VideoState()))
        ids = asked(backbone.prompt.whole(times, shape, kept))
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if backbone.axes > 1:
        inputs["mm_token_type_ids"] = torch.tensor(backbone.processor.create_mm_token_type_ids(ids.tolist()))
    return inputs


def still_in_parts(count: int) -> list[Any]:
    """Frames of which every second is the one before, but for a corner."""
    frames = make_frames(count)
    for before, frame in pairwise(frames):
        if frame.index % 2:
            frame.image[20:] = before.image[20:]
    return frames


@each_model
@pytest.mark.parametrize(("count", "cuts"), [(8, [2, 6]), (13, [4, 12])])
def test_native_layout_answers_like_stock_generate(name, count, cuts):
    backbone, frames = tiny_model(name), still_in_parts(count)
    inputs = stock_inputs(backbone, frames)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    stock = backbone.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    expected = stock.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chunks, state = encode(backbone, frames, cuts, 2.0)
    question = backbone.encode(backbone.question_text(QUESTION))
    assert inputs["input_ids"].shape[1] == sum(map(len, chunks)) + question.shape[1]
    tokens, logits = answer(backbone, chunks, state)
    close("one_shot", logits, stock.logits[0][0])
    assert tokens.tolist() == expected

    chunk, generation = backbone.frames_per_group, GenerationConfig(NEW_TOKENS, repetition_penalty=1)
    session = StreamSession(backbone, Full(), fps=2, chunk_frames=chunk, generation=generation)
    session.feed(frames)
    assert session.ask(QUESTION).ids.tolist() == expected


@each_model
def test_a_wrong_position_shows(name):
    backbone = tiny_model(name)
    chunks, state = encode(backbone, make_frames(4), [2], 2.0)
    _, right = answer(backbone, chunks, state)
    # The video shifted by 7: only its distance to the prefix and the question changes.
    moved = [chunks[0], *(replace(chunk, positions=chunk.positions + 7) for chunk in chunks[1:])]
    _, wrong = answer(backbone, moved, state)
    assert (right - wrong).abs().max() > 0.05 * right.std()


def test_what_has_not_changed_since_the_frame_before_is_not_written(tmp_path):
    backbone, frames = tiny_model("video_llama_3"), still_in_parts(8)
    whole, _ = encode(backbone, frames, [], 2.0)
    cut, _ = encode(backbone, frames, [3, 4], 2.0)
    kept = [int((torch.cat([c.tokens.frame for c in cut]) == at).sum()) for at in range(8)]
    assert kept == [int((whole[1].tokens.frame == at).sum()) for at in range(8)]
    assert all(kept[at] < kept[at - 1] for at in range(1, 8, 2))

    options: dict[str, Any] = {"fps": 2, "chunk_frames": 1, "generation": GenerationConfig(4)}
    session, other = (StreamSession(backbone, Full(), **options) for _ in range(2))
    session.feed(frames[:5])
    session.save(tmp_path / "stream")
    other.resume(tmp_path / "stream")
    for stream in (session, other):
        stream.feed(frames[5:])
    assert session.memory.lengths == other.memory.lengths
    assert all(map(torch.equal, session.memory.state(), other.memory.state()))


@each_model
def test_what_is_read_of_a_frame(name):
    backbone = tiny_model(name, "stream")
    frames = make_frames(4)
    chunks, state = encode(backbone, frames, [2], 2.0)
    for chunk in chunks[1:]:
        visual = chunk.tokens.kind == int(TokenKind.VISUAL)
        assert visual.any()
        assert (chunk.tokens.frame >= 0).all()
        assert (chunk.tokens.row[visual] >= 0).all()
        assert (chunk.tokens.row[~visual] == -1).all()
        assert (chunk.tokens.id.diff() == 1).all()
        assert len(chunk) <= backbone.tokens_per_frame(72, 128) * chunk.frames
    assert state.next_id == sum(map(len, chunks))
    assert max(self_check(backbone).values()) < 1e-4
    assert backbone.prefix_text() + backbone.template_parts.before in (
        backbone.native_parts.prefix + backbone.native_parts.before
    ).replace("".join(backbone.frame_markers), "")


@pytest.mark.parametrize("name", [name for name in TINY if name not in PAIRED])
@pytest.mark.parametrize("heads", [1, 2])
def test_a_ragged_memory_is_a_dense_one(name, heads):
    backbone = tiny_model(name, "stream")
    dense = DenseMiniCPM(backbone) if name == "minicpm_v" else DenseDecoder(backbone)
    held_beside(backbone, dense, heads=heads)


class Introduced:
    """A processor that says how many frames there are before the first."""

    video_token = "<video>"

    def replace_video_token(self, inputs: dict[str, Any], video_idx: int) -> str:
        count = inputs["pixel_values_videos"].shape[1]
        return f"{count} frames: " + "<img>" * count


def test_a_prompt_that_is_not_written_frame_by_frame_is_refused():
    from hermes.backbone import FrameShape, StockPrompt

    with pytest.raises(UnsupportedModelError, match=r"prompt.*frame by frame"):
        StockPrompt(Introduced(), "model").plan(1, FrameShape(32, 32, 8, 2))


def test_features_for_which_the_prompt_has_no_room_are_refused():
    backbone: Backbone = tiny_model("internvl")
    ids = backbone._ids((0.0,), 0, backbone._shape(72, 128))  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedModelError, match=r"vision features.* 5 for a frame.*room for 4"):
        backbone._placeholder(ids, 5)  # type: ignore[attr-defined]


def broken(*args: Any, **options: Any) -> Any:
    raise KeyError("sound")


def backwards(ids: torch.Tensor, mm_token_type_ids: Any = None) -> tuple[torch.Tensor, None]:
    """All positions of a chunk the same, whatever its length."""
    return torch.zeros(3, 1, ids.shape[1]), None


@pytest.mark.parametrize(
    ("place", "name", "fault", "part"),
    [
        ("core", "get_video_features", broken, "vision features"),
        ("core", "get_rope_index", lambda *args, **options: None, "positions"),
        ("core", "get_rope_index", backwards, "positions.*stream"),
        ("processor", "replace_video_token", broken, "prompt.*sound"),
    ],
    ids=["encoder", "call", "clock", "processor"],
)
def test_the_part_that_does_not_fit_is_named_when_a_model_is_loaded(monkeypatch, place, name, fault, part):
    backbone: Any = tiny_model("qwen3_vl_moe")
    monkeypatch.delitem(backbone.__dict__, "plan", raising=False)
    monkeypatch.setattr(getattr(backbone, place), name, fault)
    with pytest.raises(UnsupportedModelError, match=rf"{backbone.name}: {part}"):
        backbone.check()


@pytest.mark.parametrize("layout", ["native", "stream"])
def test_auto_makes_the_chunks_of_a_family_file(tmp_path, layout):
    ours: Any = tiny("qwen3_vl", layout)
    save_checkpoint(ours, tmp_path)
    auto: Any = load_backbone(BackboneConfig(checkpoint=str(tmp_path), family="auto", layout=layout))  # type: ignore[arg-type]
    frames = make_frames(7)
    for found, expected in zip(
        encode(auto, frames, [2, 6], 2.0)[0], encode(ours, frames, [2, 6], 2.0)[0], strict=True
    ):
        assert torch.equal(found.positions, expected.positions)
        assert torch.equal(found.tokens.table, expected.tokens.table)
        close("one_shot", found.embeds, expected.embeds)
        for level, other in zip(found.deepstack, expected.deepstack, strict=True):
            close("one_shot", level, other)


@pytest.mark.parametrize(
    ("family", "part"), [("llava_onevision", "prompt.*frame by frame"), ("qwen2_5_vl", "positions.*stream")]
)
def test_a_model_whose_native_prompt_is_not_a_chain_of_frames_is_refused(tmp_path, family, part):
    save_checkpoint(tiny(family, "native"), tmp_path)
    known = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    (tmp_path / "processor_config.json").write_text(json.dumps(known))
    with pytest.raises(UnsupportedModelError, match=part):
        load_backbone(BackboneConfig(checkpoint=str(tmp_path), family="auto", layout="native"))
