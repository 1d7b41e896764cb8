"""Scores of a stack of layers: min-max, recency, blend and smoothing across layers, before the top-k."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def blended_scores(
    attention: Float[Tensor, "L B R V"],
    weight: Float[Tensor, " L"],
    rate: Float[Tensor, " L"],
    smoothing: Float[Tensor, " L"],
    *,
    partner: Int[Tensor, "L B R V"] | None = None,
    recursive: bool = False,
) -> Float[Tensor, "L B R V"]:
    """Smoothed scores of layers that hold equally many tokens.

    Source: arXiv 2601.14724, Sec. 3.1 and 3.2. With ``n(x) = (x - min x) / (max x - min x + 1e-6)`` over the
    last axis and ``age`` 0 at the newest token, 1 at the oldest,

    ``S_l = (1 - weight_l) n(attention_l) + weight_l n(exp(-rate_l age))`` and
    ``S~_l = (1 - smoothing_l) S_l + smoothing_l S_{l+1}``, the last layer as it is.

    Top-k is left to torch: a radix selection is not a fusable elementwise step.

    Args:
        attention: zeros where a layer needs none (``weight`` 1).
        weight, rate, smoothing: one number a layer; float64 for the parts' results bit for bit.
        partner: slot of the layer above that holds the same token, -1 where it has none (that score is then
            left alone); None matches by slot.
        recursive: read the smoothed scores of the layer above, as the release does.

    >>> scores = blended_scores(
    ...     torch.zeros(1, 1, 1, 3), torch.ones(1), torch.full((1,), 20.0), torch.zeros(1)
    ... )
    >>> scores.flatten().round(decimals=3)
    tensor([0., 0., 1.])
    """
    count = attention.shape[-1]
    shape = (-1, 1, 1, 1)
    age = torch.arange(count - 1, -1, -1, device=attention.device, dtype=torch.float32) / max(count - 1, 1)
    recency = _normalise(torch.exp(-rate.view(shape).float() * age))
    raw = (1 - weight).view(shape).float() * _normalise(attention) + weight.view(shape).float() * recency
    own, above_weight = (1 - smoothing).float(), smoothing.float()
    out = raw.clone()
    for layer in range(len(raw) - 2, -1, -1):
        above = (out if recursive else raw)[layer + 1]
        if partner is not None:
            at = partner[layer]
            above = torch.where(at >= 0, above.gather(-1, at.clamp(min=0)), raw[layer])
        out[layer] = own[layer] * raw[layer] + above_weight[layer] * above
    return out


def _normalise(x: Tensor) -> Tensor:
    if x.shape[-1] == 0:
        return x
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    return (x - low) / (high - low + 1e-6)
