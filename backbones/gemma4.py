"""Gemma 4: frames of 70 tokens behind MM:SS, windows in which a frame's tokens attend both ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from hermes.backbone import PixelRecipe, prepare
from hermes.errors import SettingError
from hermes.tokens import VideoState
from hermes.video import Frame

from .auto import Auto


class FittedRecipe(PixelRecipe):
    """Frames of the largest size, sides in proportion, that costs at most ``size["tokens"]`` tokens.

    >>> FittedRecipe({"tokens": 70}, patch_size=16, merge_size=3).target(360, 640)
    (288, 528)
    """

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, each a multiple of a token's side."""
        side, most = self.factor, self.size["tokens"]
        scale = math.sqrt(most * side**2 / (height * width))
        high, wide = (math.floor(scale * edge / side) * side for edge in (height, width))
        if not high:
            return side, min(width // height, most) * side
        if not wide:
            return min(height // width, most) * side, side
        return high, wide

    def limited(self, min_pixels: int | None, max_pixels: int | None) -> PixelRecipe:
        """Itself: the number of tokens is the checkpoint's.

        Raises:
            SettingError: limits are given.
        """
        for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
            if value is not None:
                raise SettingError(
                    f"backbone.{name}", value, "null: frames are as large as their tokens allow"
                )
        return self


class _Written:
    """The stock processor's text of a video, without what prepares pixels."""

    video_token = "<|video|>"

    def __init__(self, tokenizer: Any, pooled: int) -> None:
        self.boi_token, self.eoi_token = tokenizer.boi_token, tokenizer.eoi_token
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        self.pooled = pooled

    def replace_video_token(self, inputs: Mapping[str, Any], video_idx: int) -> str:
        """What stands in the prompt for a video."""
        from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

        _, rows, cols = inputs["video_grid_thw"][video_idx].tolist()
        count = {"num_soft_tokens_per_video": [rows * cols // self.pooled]}
        text: str = Gemma4Processor.replace_video_token(self, {**inputs, **count}, video_idx)
        return text


class Gemma4(Auto):
    """Gemma 4 (``google/gemma-4-*-it``).

    The family's own frames: as large as 70 tokens allow, a time before each. Of its layers, one in five or
    six is managed; the others are windows, in which the tokens of a frame see each other both ways where the
    checkpoint has it so (``use_bidirectional_attention``). Audio is left out.
    """

    model_types: ClassVar[tuple[str, ...]] = ("gemma4",)
    layer_kinds = "4 or 5 windows to 1 managed"
    pixel_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "patch_size": 16,
            "max_soft_tokens": 70,
            "pooling_kernel_size": 3,
            "image_mean": [0.0, 0.0, 0.0],
            "image_std": [1.0, 1.0, 1.0],
        }
    )

    def stock(self) -> Any:
        """What writes frames into the prompt."""
        return _Written(self.tokenizer, self.recipe.merge_size**2)

    def checkpoint_recipe(self) -> PixelRecipe:
        """What the checkpoint says of its frames, the family's settings where it says nothing."""
        said = {key: value for key, value in self.preprocessor.items() if value is not None}
        given = {**self.pixel_defaults, **said}
        recipe = PixelRecipe.of({**given, "merge_size": given["pooling_kernel_size"]})
        size = {"tokens": int(given["max_soft_tokens"])}
        return FittedRecipe(**{**vars(recipe), "size": size, "temporal_patch_size": 1})

    def patches(self, frames: Sequence[Frame]) -> tuple[Tensor, Tensor]:
        """Frames as rows of patches ``[T, P, values]``, and the column and row of each, ``[T, P, 2]``."""
        weight = next(p for p in self.core.vision_tower.parameters() if p.is_floating_point())
        pixels, side = prepare(frames, self.recipe, weight.device).to(weight.dtype), self.recipe.patch_size
        rows, cols = pixels.shape[2] // side, pixels.shape[3] // side
        parts = pixels.unflatten(3, (cols, side)).unflatten(2, (rows, side))
        at = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).flip(-1).to(weight.device)
        values = parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return values, at.expand(len(frames), -1, -1)

    @torch.no_grad()
    def _seen(self, frames: Sequence[Frame], state: VideoState) -> tuple[Any, list[Tensor | None]]:
        values, at = self.patches(frames)
        count = torch.tensor([len(frames)], device=values.device)
        output = self.core.get_video_features(values, at, num_frames_per_video=count)
        return output, [None] * len(frames)
