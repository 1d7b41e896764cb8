"""Frames to pixels: against Hugging Face's own processors, and the rules for sizes."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch

from hermes.backbone import (
    PixelRecipe,
    normalize,
    patchify,
    prepare,
    prepare_patches,
    resize,
    smart_resize,
    stack,
)
from hermes.backbone.pixels import cropped
from hermes.backbones.qwen2_5_vl import Qwen2_5VL
from hermes.backbones.qwen3_vl import Qwen3VL
from hermes.errors import InputError, SettingError, UnsupportedModelError
from hermes.video import Frame
from tests.support.tolerances import close

pytestmark = pytest.mark.unit

LLAVA = {
    "size": {"height": 384, "width": 384},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def make_frames(count: int, height: int, width: int) -> list[Frame]:
    rng = np.random.default_rng(count * height + width)
    return [Frame(rng.integers(0, 256, (height, width, 3), np.uint8), float(i), i) for i in range(count)]


def video_processor(module: str, name: str):
    """One of Hugging Face's video processors, which need torchvision; skips where that cannot be imported."""
    try:
        importlib.import_module("torchvision")
        return getattr(importlib.import_module(f"transformers.models.{module}"), name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")


@pytest.mark.parametrize("size", [(384, 384), (360, 640), (100, 300), (700, 500)], ids=str)
@pytest.mark.parametrize("resample", [1, 2, 3], ids=["lanczos", "bilinear", "bicubic"])
def test_llava_pixels_are_those_of_the_video_processor(size, resample):
    processor = video_processor(
        "llava_onevision.video_processing_llava_onevision", "LlavaOnevisionVideoProcessor"
    )
    frames = make_frames(3, *size)
    settings = {**LLAVA, "resample": resample}
    expected = processor(**settings)(videos=[stack(frames)], return_tensors="pt").pixel_values_videos[0]
    assert torch.equal(prepare(frames, PixelRecipe.of(settings)), expected)


@pytest.mark.parametrize("count", [4, 5], ids="frames={}".format)
@pytest.mark.parametrize("size", [(360, 640), (20, 90), (50, 40), (1080, 1920)], ids=str)
def test_qwen2_5_pixels_are_those_of_the_video_processor(size, count):
    processor = video_processor("qwen2_vl.video_processing_qwen2_vl", "Qwen2VLVideoProcessor")
    frames = make_frames(count, *size)
    settings = {**Qwen2_5VL.pixel_defaults, "size": {"shortest_edge": 56 * 56, "longest_edge": 300 * 28 * 28}}
    expected = processor(**settings, cap_pixels_per_frame=False)(videos=[stack(frames)], return_tensors="pt")
    patches, grid = prepare_patches(frames, PixelRecipe.of(settings), torch.zeros(1))
    assert [list(grid)] == expected.video_grid_thw.tolist()
    assert torch.equal(patches, expected.pixel_values_videos)


@pytest.mark.parametrize("size", [(360, 640), (20, 90), (50, 40), (1080, 1920)], ids=str)
def test_qwen3_pixels_are_those_of_the_video_processor(size):
    processor = video_processor("qwen3_vl.video_processing_qwen3_vl", "Qwen3VLVideoProcessor")
    frames, clip = make_frames(4, *size), {"shortest_edge": 4 * 4096, "longest_edge": 4 * 300 * 1024}
    options = {"do_sample_frames": False, "cap_pixels_per_frame": False}
    settings = {**Qwen3VL.pixel_defaults, "size": clip}
    expected = processor(**settings, **options)(videos=[stack(frames)], return_tensors="pt")
    one = {"shortest_edge": 4096, "longest_edge": 300 * 1024}
    recipe = PixelRecipe.of({**settings, "size": one, "grow_small": True})
    patches, grid = prepare_patches(frames, recipe, torch.zeros(1))
    assert [list(grid)] == expected.video_grid_thw.tolist()
    assert torch.equal(patches, expected.pixel_values_videos)


def test_a_frame_of_the_right_size_gives_the_patches_of_the_pil_processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    frames = make_frames(1, 56, 84)
    settings = {**Qwen2_5VL.pixel_defaults, "size": {"shortest_edge": 784, "longest_edge": 602112}}
    settings.pop("video_processor_type")
    expected = Qwen2VLImageProcessorPil(**settings)(frames[0].image, return_tensors="pt")
    # One frame is doubled into a pair, as an image is.
    patches, grid = prepare_patches(frames, PixelRecipe.of(settings), torch.zeros(1))
    assert [list(grid)] == expected.image_grid_thw.tolist()
    # PIL's processor rescales and normalises in two steps, the tensor processors in one: last bits differ.
    close("one_shot", patches, expected.pixel_values)


def test_a_frame_of_the_right_size_is_not_resampled():
    images = stack(make_frames(2, 42, 42))
    assert resize(images, (42, 42)) is images
    same = PixelRecipe.of({"size": {"height": 42, "width": 42}, "do_normalize": False, "do_rescale": False})
    assert torch.equal(prepare(make_frames(2, 42, 42), same), images.float())


def test_rescaling_without_normalising():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    recipe = PixelRecipe.of({"size": {"height": 1, "width": 1}, "do_normalize": False})
    assert normalize(images, recipe)[:, 0, 0, 0].tolist() == pytest.approx([0, 1])


def test_resize_is_antialiased_and_stays_in_bytes():
    stripes = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 255
    small = resize(stripes, (16, 16))
    assert small.dtype == torch.uint8
    assert int(small[..., 2:-2].float().std()) == 0


def test_patches_of_one_token_lie_together_in_raster_order():
    # Every pixel knows its place: 1000 * frame + 10 * patch row + patch column.
    rows, columns = torch.arange(4).repeat_interleave(2), torch.arange(6).repeat_interleave(2)
    image = (10 * rows.view(-1, 1) + columns).expand(3, 3, 8, 12) + 1000 * torch.arange(3).view(3, 1, 1, 1)
    patches, grid = patchify(image.float(), patch=2, merge=2, temporal=2)
    assert grid == (2, 4, 6)
    assert patches.shape == (48, 3 * 2 * 2 * 2)
    first = patches[:8, 0].tolist()
    assert first == [0, 1, 10, 11, 2, 3, 12, 13]
    # [channel, frame, y, x]: the third frame stands twice in the last group.
    last = patches[24].view(3, 2, 2, 2)
    assert last[:, 0].unique().tolist() == last[:, 1].unique().tolist() == [2000]
    assert patches[0].view(3, 2, 2, 2)[:, 1].unique().tolist() == [1000]


@pytest.mark.parametrize("grow_small", [False, True])
def test_smart_resize_is_that_of_the_family(grow_small):
    if grow_small:
        module = importlib.import_module("transformers.models.qwen3_vl.video_processing_qwen3_vl")
    else:
        module = importlib.import_module("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    sides = (9, 14, 27, 28, 63, 112, 333, 1080, 2160)
    for height, width, most in itertools.product(sides, sides, (784, 50176, 602112)):
        if max(height, width) / min(height, width) > 200:
            continue
        limits = {"factor": 28, "min_pixels": 784, "max_pixels": most}
        given = {**limits, "height": height, "width": width}
        clip = {"num_frames": 2, "min_pixels": 2 * 784, "max_pixels": 2 * most} if grow_small else {}
        assert smart_resize(**given, grow_small=grow_small) == module.smart_resize(**{**given, **clip})


def test_a_sliver_is_refused():
    with pytest.raises(InputError, match="10x3000 is too narrow"):
        smart_resize(10, 3000, factor=28, min_pixels=784, max_pixels=50176)


def test_pixel_limits():
    free = PixelRecipe.of({"min_pixels": 784, "max_pixels": 50176})
    assert free.size == {"shortest_edge": 784, "longest_edge": 50176}
    assert free.limited(None, 7840).target(360, 640) == (56, 112)
    with pytest.raises(SettingError, match=r"backbone\.min_pixels.*here 50176"):
        free.limited(60000, None)
    with pytest.raises(SettingError, match=r"backbone\.max_pixels.*always 384x384"):
        PixelRecipe.of(LLAVA).limited(None, 7840)


def test_settings_that_are_not_supported():
    with pytest.raises(UnsupportedModelError, match="pads"):
        PixelRecipe.of({**LLAVA, "do_pad": True})
    with pytest.raises(UnsupportedModelError, match="PIL's rule 4"):
        PixelRecipe.of({**LLAVA, "resample": 4})
    assert PixelRecipe.of({**LLAVA, "do_center_crop": None, "resample": None}).resample == 3


def test_the_middle_of_a_frame_whose_shorter_side_is_given():
    crop = {"do_center_crop": True, "crop_size": {"height": 24, "width": 24}}
    recipe = PixelRecipe.of({**LLAVA, "size": {"shortest_edge": 30}, **crop})
    assert recipe.resized(72, 128) == (30, 53)
    assert recipe.resized(128, 72) == (53, 30)
    assert recipe.target(72, 128) == (24, 24)
    ramp = np.arange(41 * 31 * 3, dtype=np.uint8).reshape(41, 31, 3)
    kept = cropped(torch.from_numpy(ramp).permute(2, 0, 1)[None], (24, 24))
    assert kept[0].permute(1, 2, 0).tolist() == ramp[8:32, 4:28].tolist()
    with pytest.raises(InputError, match="smaller than the 42x24"):
        cropped(kept, (42, 24))
    assert PixelRecipe.of({**LLAVA, "crop_size": {"height": 24, "width": 24}}).crop_size is None


def test_frames_that_cannot_be_stacked():
    one, other = make_frames(1, 8, 8)[0], make_frames(1, 8, 9)[0]
    with pytest.raises(InputError, match="one size"):
        stack([one, other])
    with pytest.raises(InputError, match="got none"):
        stack([])
    object.__setattr__(one, "image", one.image.astype(np.float32))
    with pytest.raises(InputError, match="uint8"):
        stack([one])
