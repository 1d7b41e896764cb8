"""MiniCPM-V 4.6: frames of any shape as rows of patches, before Qwen3.5's decoder with counted positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hermes.backbone import PixelRecipe, normalize, resize, stack
from hermes.errors import UnsupportedModelError
from hermes.tokens import VideoState
from hermes.video import Frame

from .auto import Auto


class SquaredRecipe(PixelRecipe):
    """Frames of any shape with about the area of one square, small ones enlarged."""

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width a frame is resized to."""
        side, ratio = math.sqrt(self.size["longest_edge"]), width / height
        high = int(side / math.sqrt(ratio))
        rows, columns = (max(round(edge / self.factor), 1) for edge in (high, int(high * ratio)))
        return rows * self.factor, columns * self.factor


class _Prompt:
    """What stands for frames in the prompt, each between the markers of a picture."""

    def __init__(self, tokenizer: Any, factor: int) -> None:
        self.factor = factor
        self.video_token = str(getattr(tokenizer, "video_token", "<|video_pad|>"))
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        self.opening = str(getattr(tokenizer, "image_start_token", "<image>"))
        self.ending = str(getattr(tokenizer, "image_end_token", "</image>"))

    def replace_video_token(self, video_inputs: Mapping[str, Any], video_idx: int) -> str:
        """As many frames as there are pictures."""
        count, _, *size = video_inputs["pixel_values_videos"][video_idx].shape
        tokens = int(size[0] // self.factor) * int(size[1] // self.factor)
        return f"{self.opening}{self.video_token * tokens}{self.ending}" * int(count)


class MiniCPMV(Auto):
    """MiniCPM-V 4.6 (``openbmb/MiniCPM-V-4.6``), 64 tokens a square frame, positions count tokens.

    A frame is seen whole, as with ``max_slice_nums=1`` and ``use_image_id=False``, which its authors advise
    for videos: no slices of large frames in their full resolution, no number before the video. Three decoder
    layers in four are gated delta-nets, whose states the stream itself makes.
    """

    model_types: ClassVar[tuple[str, ...]] = ("minicpmv4_6",)
    layer_kinds = "3 recurrent to 1 managed"
    pixel_defaults: ClassVar[Mapping[str, Any]] = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "patch_size": 14,
        "scale_resolution": 448,
    }

    def stock(self) -> Any:
        """What writes frames into the prompt."""
        return _Prompt(self.tokenizer, self.recipe.factor)

    def _setting(self, name: str) -> Any:
        found = self.preprocessor.get(name)
        return self.pixel_defaults.get(name) if found is None else found

    @property
    def merge(self) -> int:
        """Patches along one side of a token: merged twice, or once in mode ``4x``."""
        return 2 if self.model.config.downsample_mode == "4x" else 4

    def checkpoint_recipe(self) -> PixelRecipe:
        """What the checkpoint says of its frames; all have about the area of one square.

        Raises:
            UnsupportedModelError: several frames are put on one canvas, or the preprocessor merges patches
                otherwise than the model.
        """
        if int(self.preprocessor.get("stack_frames") or 1) > 1:
            raise UnsupportedModelError(
                f"{self.name}: pixels: its preprocessor puts several frames on one canvas (stack_frames)"
            )
        mode, own = self.preprocessor.get("downsample_mode"), self.model.config.downsample_mode
        if mode not in (None, own):
            raise UnsupportedModelError(
                f"{self.name}: pixels: its preprocessor's downsample_mode is {mode!r}, the model's {own!r}"
            )
        given = {key: value for key, value in self.preprocessor.items() if value is not None}
        edge = int(self._setting("scale_resolution"))
        area = {"size": {"shortest_edge": edge**2, "longest_edge": edge**2}, "merge_size": self.merge}
        recipe = PixelRecipe.of({**self.pixel_defaults, **given, **area, "temporal_patch_size": 1})
        return SquaredRecipe(**vars(recipe))

    @torch.no_grad()
    def _seen(self, frames: Sequence[Frame], state: VideoState) -> tuple[Any, list[Tensor | None]]:
        weight = next(p for p in self.core.parameters() if p.is_floating_point())
        pixels, sizes = self.strips(frames)
        given = {"pixel_values_videos": pixels.to(weight), "target_sizes_videos": sizes.to(weight.device)}
        return self.core.get_video_features(**given), [None] * len(frames)

    def strips(self, frames: Sequence[Frame]) -> tuple[Tensor, Tensor]:
        """Patches side by side, ``[1, 3, patch, n * patch]``, and the rows and columns of each frame."""
        images, patch = stack(frames), self.recipe.patch_size
        shape = self._shape(*images.shape[-2:])
        images = resize(images, (shape.height, shape.width), self.recipe.resample)
        patches = F.unfold(normalize(images, self.recipe), (patch, patch), stride=(patch, patch))
        # [T, 3, y, x, n] to [3, y, T, n, x]
        split = patches.unflatten(1, (3, patch, patch)).permute(1, 2, 0, 4, 3)
        size = [shape.height // patch, shape.width // patch]
        return split.flatten(2).unsqueeze(0), torch.tensor([size] * len(frames), dtype=torch.int32)
