"""Rotation of keys and queries by an angle, in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


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
