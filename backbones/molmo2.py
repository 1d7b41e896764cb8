"""Molmo2: square frames of 81 tokens behind their seconds, added to what stands for them in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from hermes.backbone import PixelRecipe, normalize, stack, visual_features
from hermes.dialogue import TemplateParts
from hermes.errors import UnsupportedModelError
from hermes.tokens import Chunk, VideoState
from hermes.video import Frame

from .auto import Auto


class Molmo2(Auto):
    """Molmo2 (``allenai/Molmo2-*``), 1-D positions, all layers managed.

    Tokens of frames attend to each other both ways. In the stock model, which reads a video at once, that
    reaches over the whole of it, so that a frame sees all later ones; a stream does not have those yet. Here
    it reaches over the chunk: earlier frames are seen, later ones as far as the chunk goes. Equal to the
    stock model if the video is one chunk.
    """

    model_types: ClassVar[tuple[str, ...]] = ("molmo2",)
    layer_kinds = "all managed"
    default_fps = 2.0
    pixel_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "size": {"height": 378, "width": 378},
            "resample": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "patch_size": 14,
            "pooling_size": [3, 3],
        }
    )

    def checkpoint_recipe(self) -> PixelRecipe:
        """What the checkpoint says of its frames, the family's settings where it says nothing.

        Raises:
            UnsupportedModelError: a token of more rows of patches than columns, or the other way round.
        """
        said = {key: value for key, value in self.preprocessor.items() if value is not None}
        given = {**self.pixel_defaults, **said}
        rows, cols = given["pooling_size"]
        if rows != cols:
            raise UnsupportedModelError(f"{self.name}: pixels: pooling_size {[rows, cols]} is not a square")
        return PixelRecipe.of({**given, "merge_size": rows, "temporal_patch_size": 1})

    def pictures(self, frames: Sequence[Frame]) -> Float[Tensor, "T 3 H W"]:
        """Frames resized without smoothing, and normalised."""
        images = stack(frames).float()
        images = F.interpolate(images, self.recipe.target(*images.shape[-2:]), mode="bilinear")
        return normalize(images.round().clamp(0, 255).to(torch.uint8), self.recipe)

    def patches(self, frames: Sequence[Frame]) -> tuple[Float[Tensor, "T P values"], Int[Tensor, "n pooled"]]:
        """Frames as rows of patches, and which of all patches each token is pooled from, -1 where none."""
        pixels, side, merge = self.pictures(frames), self.recipe.patch_size, self.recipe.merge_size
        # [T, row, column, y, x, channel]
        parts = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 3, 5, 1)
        count, rows, cols = parts.shape[:3]
        grid = torch.arange(count * rows * cols).view(count, rows, cols)
        short = [(-size % merge) for size in (cols, rows)]
        around = [part for size in short for part in (size // 2, size - size // 2)]
        tokens = F.pad(grid, around, value=-1).unflatten(2, (-1, merge)).unflatten(1, (-1, merge))
        return parts.flatten(3).flatten(1, 2), tokens.transpose(2, 3).flatten(3).flatten(0, 2)

    @torch.no_grad()
    def _seen(self, frames: Sequence[Frame], state: VideoState) -> tuple[Any, list[Tensor | None]]:
        weight = self.core.vision_tower.positional_embedding
        pixels, pooled = self.patches(frames)
        side = -(-self.recipe.target(1, 1)[0] // self.recipe.factor)
        grid = torch.tensor([[len(frames), side, side]], device=weight.device)
        output = self.core.get_video_features(pixels.to(weight), pooled.to(weight.device), grid)
        features = visual_features(output).to(self.device, self.dtype)
        place = torch.tensor([[self.model.config.image_patch_id]])
        return features + self.embed(place), [None] * len(frames)

    @cached_property
    def native_parts(self) -> TemplateParts:
        """The chat template cut at the video and the question, behind the token that begins every prompt."""
        parts, start = super().native_parts, self.tokenizer.bos_token or self.tokenizer.eos_token
        return parts if parts.prefix.startswith(start) else parts._replace(prefix=start + parts.prefix)

    def attend_both_ways(self, chunk: Chunk) -> Bool[Tensor, "*streams n"]:
        """Pictures, and the control tokens around and between their rows."""
        seen = super().attend_both_ways(chunk).to(chunk.embeds.device)
        marks = [token for token in self.processor.image_token_ids if token is not None]
        for mark in self.embed(torch.tensor([marks]))[0]:
            seen = seen | (chunk.embeds == mark).all(-1)
        return seen
