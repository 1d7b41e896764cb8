"""Qwen2-VL: as Qwen2.5-VL, but its time axis counts groups of frames, whatever the sampling rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.tokens import Chunk

from .qwen2_5_vl import Qwen2_5VL


class Qwen2VL(Qwen2_5VL):
    """Qwen2-VL (``Qwen/Qwen2-VL-*-Instruct``), M-RoPE (arXiv 2409.12191).

    Layouts as :class:`Qwen2_5VL`; a group of frames is one step of the time axis.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)
    pixel_defaults: ClassVar[Mapping[str, Any]] = {
        **Qwen2_5VL.pixel_defaults,
        "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
    }

    def stream_positions(self, groups: int, rows: int, cols: int, *, fps: float) -> Float[Tensor, "3 n"]:
        """Time, height and width of a chunk's tokens, relative to the clock at which it starts."""
        return self._positions(torch.arange(groups, dtype=torch.float64), rows, cols)

    def token_saliency(self, received: Float[Tensor, " patches"], chunk: Chunk) -> Float[Tensor, " n"]:
        """The mean of the patches merged into a token."""
        return received.view(-1, self.recipe.merge_size**2).mean(1)
