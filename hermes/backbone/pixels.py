"""Frames to pixel tensors in plain torch, as the checkpoint's own video processor would make them."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from hermes.errors import InputError, SettingError, UnsupportedModelError
from hermes.video import Frame

__all__ = [
    "PixelRecipe",
    "normalize",
    "patchify",
    "per_frame_limits",
    "prepare",
    "prepare_patches",
    "resize",
    "smart_resize",
    "stack",
]

# PIL's resampling codes, which preprocessor settings use, and torch's names for them.
_MODES = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class PixelRecipe:
    """How a checkpoint wants its frames, read from its own preprocessor settings.

    The fields mean what they mean in Hugging Face's video processors.

    Attributes:
        size: ``height`` and ``width`` of every frame; or ``shortest_edge`` and ``longest_edge``: the least
            and the most pixels of one frame; or ``shortest_edge`` alone: the pixels of its shorter side.
        crop_size: ``height`` and ``width`` of the middle that is kept of a resized frame.
        resample: PIL's code, 1 (Lanczos), 2 (bilinear) or 3 (bicubic).
        mean: per channel, of pixels after rescaling.
        std: per channel, likewise.
        grow_small: see :func:`smart_resize`.

    >>> PixelRecipe.of({"size": {"height": 28, "width": 28}, "fps": 2}).target(360, 640)
    (28, 28)
    >>> PixelRecipe.of({"size": {"shortest_edge": 784, "longest_edge": 602112}}).target(360, 640)
    (364, 644)
    """

    size: Mapping[str, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: int = 3
    rescale_factor: float = 1 / 255
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    grow_small: bool = False
    crop_size: Mapping[str, int] | None = None

    @staticmethod
    def of(settings: Mapping[str, Any]) -> PixelRecipe:
        """Read a preprocessor's settings; null means unset, what is not about pixels is ignored.

        Raises:
            UnsupportedModelError: it pads, or resizes by another rule than Lanczos, bilinear or bicubic.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        if not given.get("do_center_crop"):
            given.pop("crop_size", None)
        if given.get("do_pad"):
            raise UnsupportedModelError(
                "this checkpoint's preprocessor pads its frames, which is not supported"
            )
        recipe = {name: given[name] for name in PixelRecipe.__dataclass_fields__ if name in given}
        recipe["size"] = dict(given.get("size", {}))
        # The older spelling of the same two limits.
        for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            if old in given:
                recipe["size"][new] = given[old]
        for name in ("mean", "std"):
            if f"image_{name}" in given:
                recipe[name] = tuple(given[f"image_{name}"])
        if int(recipe.get("resample", 3)) not in _MODES:
            raise UnsupportedModelError(
                f"this checkpoint's preprocessor resizes with PIL's rule {recipe['resample']}; "
                "supported: 1 (Lanczos), 2 (bilinear), 3 (bicubic)"
            )
        return PixelRecipe(**recipe)

    @property
    def factor(self) -> int:
        """Pixels along one side of a token, after patches are merged."""
        return self.patch_size * self.merge_size

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a frame as the model sees it; raises as :meth:`resized`."""
        if self.crop_size is not None:
            return self.crop_size["height"], self.crop_size["width"]
        return self.resized(height, width)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width a frame is resized to, before it is cropped.

        Raises:
            InputError: one side is over 200 times the other.
        """
        if not self.do_resize:
            return height, width
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        if "longest_edge" not in self.size:
            edge, shorter = self.size["shortest_edge"], min(height, width)
            return int(edge * height / shorter), int(edge * width / shorter)
        return smart_resize(
            height,
            width,
            factor=self.factor,
            min_pixels=self.size["shortest_edge"],
            max_pixels=self.size["longest_edge"],
            grow_small=self.grow_small,
        )

    def limited(self, min_pixels: int | None, max_pixels: int | None) -> PixelRecipe:
        """The recipe with the user's limits on one frame's pixels (settings ``backbone.*_pixels``).

        Raises:
            SettingError: the frames have a fixed size, or the limits contradict each other.
        """
        size = dict(self.size)
        limits = {"min_pixels": ("shortest_edge", min_pixels), "max_pixels": ("longest_edge", max_pixels)}
        for name, (key, value) in limits.items():
            if value is None:
                continue
            if "height" in size:
                fixed = f"{size['height']}x{size['width']}"
                raise SettingError(f"backbone.{name}", value, f"null: this model's frames are always {fixed}")
            size[key] = value
        if size.get("shortest_edge", 0) > size.get("longest_edge", math.inf):
            allowed = f"a number up to backbone.max_pixels, here {size['longest_edge']}"
            raise SettingError("backbone.min_pixels", size["shortest_edge"], allowed)
        return replace(self, size=size)


# Video processors whose limits are those of a whole clip, and the most tokens of one frame of theirs.
_OF_CLIPS = {"Qwen3VLVideoProcessor": 768, "Glm4vVideoProcessor": 768, "Glm46VVideoProcessor": 768}


def per_frame_limits(recipe: PixelRecipe, processor: str) -> PixelRecipe:
    """A recipe with pixel limits of one frame, where its processor takes them for a whole clip's.

    A stream has no length, so that the limits of one frame are: at least the clip's minimum spread over one
    group of frames, at most 768 tokens or the clip's maximum spread over one group.

    Args:
        processor: the video processor's class (``video_processor_type``).
    """
    most = _OF_CLIPS.get(processor)
    if most is None or "longest_edge" not in recipe.size:
        return recipe
    group = recipe.temporal_patch_size
    longest = min(most * recipe.factor**2, recipe.size["longest_edge"] // group)
    shortest = min(longest, math.ceil(recipe.size["shortest_edge"] / group))
    return replace(recipe, size={"shortest_edge": shortest, "longest_edge": longest}, grow_small=True)


def stack(frames: Sequence[Frame]) -> UInt8[Tensor, "T 3 H W"]:
    """The frames as one tensor.

    Raises:
        InputError: no frame, not RGB in uint8, or frames of different sizes.
    """
    shapes = {(frame.image.shape, str(frame.image.dtype)) for frame in frames}
    if len(shapes) != 1:
        raise InputError(f"frames encoded together must have one size, got {sorted(shapes) or 'none'}")
    shape, dtype = shapes.pop()
    if len(shape) != 3 or shape[-1] != 3 or dtype != "uint8":
        raise InputError(
            f"a frame must be a uint8 array [height, width, 3] in RGB, got {dtype} {list(shape)}"
        )
    return torch.from_numpy(np.stack([frame.image for frame in frames])).permute(0, 3, 1, 2).contiguous()


def prepare(
    frames: Sequence[Frame], recipe: PixelRecipe, device: torch.device | str = "cpu"
) -> Float[Tensor, "T 3 H W"]:
    """Frames resized and normalised, float32 on ``device``; only the resized bytes travel there.

    Raises:
        InputError: frames that cannot be stacked, or are too narrow.
    """
    images = stack(frames)
    height, width = images.shape[-2:]
    images = resize(images, recipe.resized(height, width), recipe.resample)
    return normalize(cropped(images, recipe.target(height, width)).to(device), recipe)


def cropped(images: UInt8[Tensor, "T 3 H W"], size: tuple[int, int]) -> UInt8[Tensor, "T 3 h w"]:
    """The middle of the images, to the pixel what torchvision's ``center_crop`` keeps.

    Raises:
        InputError: they are smaller.
    """
    (height, width), (high, wide) = images.shape[-2:], size
    if high > height or wide > width:
        raise InputError(
            f"a frame of {height}x{width}, resized, is smaller than the {high}x{wide} kept of it"
        )
    top, left = round((height - high) / 2), round((width - wide) / 2)
    return images[..., top : top + high, left : left + wide]


def prepare_patches(
    frames: Sequence[Frame], recipe: PixelRecipe, weight: Tensor
) -> tuple[Float[Tensor, "n values"], tuple[int, int, int]]:
    """Frames as :func:`patchify` gives them, on the device and in the type of the tower's ``weight``.

    Raises:
        InputError: frames that cannot be stacked, or are too narrow.
    """
    patches, grid = patchify(
        prepare(frames, recipe, weight.device),
        patch=recipe.patch_size,
        merge=recipe.merge_size,
        temporal=recipe.temporal_patch_size,
    )
    return patches.to(weight.dtype), grid


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int, grow_small: bool = False
) -> tuple[int, int]:
    """The size nearest to the frame's, both sides multiples of ``factor``, its area between the limits.

    Source: the Qwen-VL family's preprocessing. Difference: for Qwen3-VL the limits are given for a whole
    clip; a stream has no length, so here they are always those of one frame. For a clip of an even number
    of frames the two agree when the clip's limits are the frame's times that number.

    Args:
        height: pixels.
        width: pixels.
        factor: pixels along one side of a token.
        min_pixels: least area, in pixels.
        max_pixels: most area, in pixels (one token at least).
        grow_small: first enlarge a frame with a side under ``factor`` (Qwen3-VL).

    Raises:
        InputError: one side is over 200 times the other.

    >>> smart_resize(360, 640, factor=28, min_pixels=3136, max_pixels=200704)
    (336, 588)
    """
    if grow_small and min(height, width) < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > 200:
        raise InputError(
            f"a frame of {height}x{width} is too narrow: one side may be 200 times the other at most"
        )
    rows, columns = round(height / factor), round(width / factor)
    area = rows * columns * factor * factor
    if area > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
    return max(1, rows) * factor, max(1, columns) * factor


def resize(
    images: UInt8[Tensor, "T 3 H W"], size: tuple[int, int], resample: int = 3
) -> UInt8[Tensor, "T 3 h w"]:
    """Antialiased resize to ``(height, width)``, to the bit what torchvision's ``v2`` does on tensors.

    Frames that have the size already are returned as they are.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    mode = _MODES[resample]
    if mode == "lanczos" and not _has_lanczos():
        # As transformers does with such a torch.
        mode = "bicubic"
    whole = images.device.type == "cpu" and (mode != "bilinear" or _fast_bilinear())
    pixels = images if whole else images.float()
    pixels = F.interpolate(pixels, size=size, mode=mode, align_corners=False, antialias=True)
    return pixels if whole else pixels.clamp(0, 255).round().to(torch.uint8)


@cache
def _has_lanczos() -> bool:
    """Whether torch can resize by Lanczos' rule, as it can from 2.12 on."""
    try:
        F.interpolate(torch.zeros(1, 1, 2, 2), size=(1, 1), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError):
        return False
    return True


def _fast_bilinear() -> bool:
    """Whether torch resizes uint8 bilinearly without going through float on this processor."""
    simd = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return simd or platform.machine() in ("aarch64", "arm64")


def normalize(images: UInt8[Tensor, "T 3 H W"], recipe: PixelRecipe) -> Float[Tensor, "T 3 H W"]:
    """Rescale and normalise in float32; the two are one step, as in Hugging Face's tensor processors."""
    pixels = images.float()
    # In this order of operations, or the last bit differs.
    unit = 1.0 / recipe.rescale_factor if recipe.do_rescale else 1.0
    if not recipe.do_normalize:
        return pixels * recipe.rescale_factor if recipe.do_rescale else pixels
    mean, std = (
        (torch.tensor(value, device=pixels.device) * unit).view(-1, 1, 1)
        for value in (recipe.mean, recipe.std)
    )
    return (pixels - mean).div_(std)


def patchify(
    images: Float[Tensor, "T C H W"], *, patch: int, merge: int, temporal: int
) -> tuple[Float[Tensor, "n values"], tuple[int, int, int]]:
    """Frames as the flat patches the Qwen-VL towers read; an incomplete last group repeats its last frame.

    The order is that of the Qwen-VL family's preprocessing.

    Args:
        images: sides are multiples of ``patch * merge``.
        patch: pixels along one side of a patch.
        merge: patches along one side of a token.
        temporal: frames in a group.

    Returns:
        Patches ``[groups * rows * columns, C * temporal * patch * patch]``, tokens in raster order and the
        patches of one token together, and the grid ``(groups, rows, columns)`` in patches.

    >>> patches, grid = patchify(torch.zeros(3, 3, 56, 84), patch=14, merge=2, temporal=2)
    >>> tuple(patches.shape), grid
    ((48, 1176), (2, 4, 6))
    """
    if short := -images.shape[0] % temporal:
        images = torch.cat((images, images[-1:].expand(short, -1, -1, -1)))
    channels, height, width = images.shape[1:]
    groups, rows, columns = images.shape[0] // temporal, height // patch, width // patch
    split = images.reshape(
        groups, temporal, channels, rows // merge, merge, patch, columns // merge, merge, patch
    )
    # [group, row, column, row in token, column in token, channel, frame, y, x]
    patches = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return patches.reshape(groups * rows * columns, -1), (groups, rows, columns)
