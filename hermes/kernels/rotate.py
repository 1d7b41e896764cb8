"""Rotation of keys and queries by an angle, in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Angles = tuple[Tensor, Tensor]  # cosine and sine, float32 [*batch, T, D/2]


@dataclass(frozen=True)
class Rotation:
    """A rotation given by position differences, whose angles a kernel may compute as it goes.

    Channel pair ``c`` turns by ``shift[axis[c]] * frequencies[c]``: one formula for 1-D
    RoPE (one axis), M-RoPE (sections) and interleaved M-RoPE. Read as angles, two float32 tensors of half a
    head a token would have to be written and read again.
    """

    shift: Float[Tensor, "A *batch T"]
    frequencies: Float[Tensor, " half"]
    axis: Int[Tensor, " half"]

    def angles(self) -> Angles:
        """Cosine and sine, float32 ``[*batch, T, D/2]``."""
        frequencies = self.frequencies.to(self.shift.device)
        if self.shift.shape[0] == 1:
            angle = self.shift[0].float().unsqueeze(-1) * frequencies
        else:
            axis = self.axis.to(self.shift.device)
            angle = self.shift.float().index_select(0, axis).movedim(0, -1) * frequencies
        return angle.cos(), angle.sin()


def rotate(
    x: Float[Tensor, "*batch T D"],
    cos: Float[Tensor, "*#batch #T half"],
    sin: Float[Tensor, "*#batch #T half"],
) -> Float[Tensor, "*batch T D"]:
    """Rotate each channel pair ``(c, c + D/2)`` of ``x`` by the angle whose cosine and sine are given.

    Source: arXiv 2601.14724, Sec. 3.3 and App. E (key correction). The arithmetic is float32 whatever the
    dtype of ``x``, so one rotation costs one rounding.

    Args:
        x: keys or queries.
        cos, sin: float32, half a head wide; broadcast over the leading axes.

    >>> x = torch.tensor([[1.0, 0.0]])
    >>> rotate(x, torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    tensor([[0., 1.]])
    """
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
