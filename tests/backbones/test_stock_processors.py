"""Pixels and prompts against transformers' own processors, where torchvision is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from transformers.video_utils import VideoMetadata

from hermes.backbone import BackboneConfig, load_backbone, prepare_patches, stack
from hermes.backbones.minicpm_v import MiniCPMV
from hermes.tokens import VideoState
from tests.support.families import QUESTION, encode, make_frames
from tests.support.tiny_models import TINY, tiny_checkpoint, tiny_model
from tests.support.tiny_molmo2 import whole_prompt

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
    ),
]

each_model = pytest.mark.parametrize("name", TINY)


def processed(name: str, frames: list[Any], fps: float, folder: Path | None = None) -> Any:
    """What the checkpoint's own processor makes of a question about these frames."""
    from transformers import AutoProcessor

    if name == "smolvlm":
        pytest.importorskip("num2words")
    processor = AutoProcessor.from_pretrained(folder or tiny_checkpoint(name))
    system = {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]}
    user = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}
    text = processor.apply_chat_template([system, user], tokenize=False, add_generation_prompt=True)
    count = len(frames)
    metadata = VideoMetadata(total_num_frames=count, fps=fps, frames_indices=list(range(count)))
    given = {"do_sample_frames": False, "video_metadata": [[metadata]]}
    # Limits of one frame, as a stream has them, are here those of a clip of this length.
    size = tiny_model(name).recipe.size
    if name in ("qwen3_vl_moe", "glm4v", "glm46v"):
        given["size"] = {edge: pixels * count for edge, pixels in size.items()}
    if name == "video_llama_3":
        given["size"] = {**size, "longest_edge": size["longest_edge"] * count}
    if name == "minicpm_v":
        given |= {"max_slice_nums": 1, "use_image_id": False}
    return processor(text=[text], videos=[stack(frames)], return_tensors="pt", **given)


@each_model
@pytest.mark.parametrize("size", [(72, 128), (50, 40)], ids=str)
def test_the_prompt_and_the_pixels_are_the_processors(name, size):
    backbone: Any = tiny_model(name)
    frames = make_frames(6, 2.0, *size)
    for frame in frames[1::2]:
        frame.image[20:] = frames[frame.index - 1].image[20:]
    stock = processed(name, frames, 2.0)
    if isinstance(backbone, MiniCPMV):
        strips, sizes = backbone.strips(frames)
        assert torch.equal(strips, stock.pixel_values_videos)
        assert torch.equal(sizes, stock.target_sizes_videos)
    elif backbone._patches:
        patches, grid = prepare_patches(frames, backbone.recipe, torch.empty(0))
        assert stock.video_grid_thw.tolist() == [list(grid)]
        assert torch.equal(patches, stock.pixel_values_videos)
        if "video_compression_mask" in stock:
            kept = torch.cat(backbone.kept(patches, grid, VideoState()))
            assert torch.equal(kept, stock.video_compression_mask)
    else:
        pixels = stock["pixel_values_videos" if "pixel_values_videos" in stock else "pixel_values"]
        assert torch.equal(backbone.pictures(frames), pixels.reshape(-1, *pixels.shape[-3:]))

    same_prompt(backbone, frames, stock.input_ids, name)


def same_prompt(backbone: Any, frames: list[Any], ids: torch.Tensor, name: str = "") -> None:
    """Assert that frames, chunk by chunk, and the question are written as in these token ids."""
    chunks, _ = encode(backbone, frames, [2, 4], 2.0)
    question = backbone.encode(backbone.question_text(QUESTION))
    if name == "smolvlm":
        # The sentence that says how many frames there will be.
        text = backbone.tokenizer.decode(ids[0])
        opening = text.index("You are provided")
        ids = backbone.encode(text[:opening] + text[text.index("\nFrame from", opening) :])
    embeds = backbone.embed(ids)
    ours = torch.cat([*(chunk.embeds for chunk in chunks), backbone.embed(question)], dim=1)
    assert ours.shape == embeds.shape
    text = ~torch.cat([*(chunk.tokens.row >= 0 for chunk in chunks), torch.zeros(question.shape[1]).bool()])
    assert torch.equal(ours[:, text], embeds[:, text])


@pytest.mark.parametrize("name", ["molmo2", "molmo2_o"])
@pytest.mark.parametrize("size", [(72, 128), (30, 20)], ids=str)
def test_molmo2_reads_what_its_processor_gives(name, size):
    backbone: Any = tiny_model(name)
    frames = make_frames(6, 2.0, *size)
    stock, ours = processed(name, frames, 2.0), whole_prompt(backbone, frames, QUESTION)
    assert ours.keys() <= stock.keys()
    for key, value in ours.items():
        assert torch.equal(value, stock[key]), key
    same_prompt(backbone, frames, stock.input_ids)
    # Those that see each other in our chunks.
    (_, chunk), _ = encode(backbone, frames, [], 2.0)
    seen = stock.mm_token_type_ids[0] == 1
    assert int(backbone.attend_both_ways(chunk).sum()) == int(seen.sum())


@pytest.mark.parametrize("name", ["gemma4", "gemma4_small"])
@pytest.mark.parametrize("size", [(72, 128), (50, 40)], ids=str)
def test_gemma4_reads_what_its_processor_gives(name, size, tmp_path):
    # Its processor takes no other numbers of tokens than the published ones.
    folder = tmp_path / "gemma4"
    copytree(tiny_checkpoint(name), folder)
    path = folder / "video_preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_soft_tokens": 70}))
    backbone: Any = load_backbone(BackboneConfig(checkpoint=str(folder), layout="native"))
    frames = make_frames(6, 2.0, *size)
    stock = processed(name, frames, 2.0, folder)
    values, at = backbone.patches(frames)
    count = at.shape[1]
    assert torch.equal(stock.pixel_values_videos.flatten(0, -3)[:, :count], values)
    assert torch.equal(stock.video_position_ids.flatten(0, -3)[:, :count], at)
    assert (stock.video_position_ids.flatten(0, -3)[:, count:] == -1).all()
    same_prompt(backbone, frames, stock.input_ids)
