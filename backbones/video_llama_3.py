"""VideoLLaMA3: what has not changed since the frame before is not written again."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.tokens import VideoState

from .auto import Auto

# Mean difference of pixels, as normalised, times 255, from which on a token counts as changed.
_CHANGED = 0.1


class VideoLlama3(Auto):
    """VideoLLaMA3 (``lkhl/VideoLLaMA3-*-Image-HF`` and others), 1-D positions, frames of different lengths.

    Source: arXiv 2501.13106, Sec. 3 (video compressor). The first frame of a stream is written whole, of
    each later one the tokens whose pixels differ from the frame before, at least one; chunks go on where
    the one before ended, as in one long video.
    """

    model_types: ClassVar[tuple[str, ...]] = ("video_llama_3",)

    def kept(
        self, pixels: Float[Tensor, "n values"], grid: tuple[int, int, int], state: VideoState
    ) -> list[Tensor | None]:
        """The tokens of each frame that differ from the frame before."""
        if self.preprocessor.get("use_token_compression", True) is False:
            return [None] * grid[0]
        tokens = grid[1] * grid[2] // self.recipe.merge_size**2
        # [T, tokens, values of its patches]
        images = pixels.view(grid[0], tokens, -1)
        before = state.tensors.get("patches")
        change = (images[1:] - images[:-1]).abs().mean(-1)
        first = torch.full_like(images[:1, :, 0], torch.inf)
        if before is not None:
            first = (images[:1] - before.to(images.device)).abs().mean(-1)
        kept = 255 * torch.cat((first, change)) > _CHANGED
        kept[~kept.any(dim=1), 0] = True
        state.tensors = {"patches": images[-1:].clone()}
        return list(kept)
