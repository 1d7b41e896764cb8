"""Scores of a stack of layers in one launch; the reference is :func:`hermes.kernels.blended_scores`.

Minimum and maximum of each layer come from a torch reduction; those of recency are known: ``exp(-rate)``
at the oldest token, 1 at the newest. Then one program takes a block of slots from the deepest layer up:

``S_l = (1 - w) (a - min a) / (max a - min a + 1e-6) + w (exp(-k age) - e^-k) / (1 - e^-k + 1e-6)``
``S~_l = (1 - lam_l) S_l + lam_l above``

``above`` is in a register where slots match by index, smoothed or not. Matched by identity, the raw score of
the layer above is computed again at the partner's slot. About 20 launches a layer become 2 for all layers.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from hermes.errors import HermesError


# fmt: off
@triton.jit
@no_type_check
def _raw(attention, low, high, weight, rate, layer, lane, slot, valid, lanes, V):
    """Unsmoothed scores of one layer at ``slot``."""
    row = layer * lanes + lane
    bottom, top = tl.load(low + row), tl.load(high + row)
    a = tl.load(attention + row * V + slot, mask=valid, other=0.0)
    w = tl.load(weight + layer)
    # float64 numbers are rounded after the subtraction.
    v, w, k = (1.0 - w).to(tl.float32), w.to(tl.float32), tl.load(rate + layer).to(tl.float32)
    oldest = tl.where(V > 1, tl.exp(-k), 1.0)
    age = (V - 1 - slot).to(tl.float32) / tl.maximum(V - 1, 1).to(tl.float32)
    recency = (tl.exp(-k * age) - oldest) / (1.0 - oldest + 1e-6)
    return v * ((a - bottom) / (top - bottom + 1e-6)) + w * recency


@triton.jit
@no_type_check
def _scores(
    attention, low, high, weight, rate, smoothing, partner, out, V, LAYERS, PARTNER: tl.constexpr,
    RECURSIVE: tl.constexpr, BLOCK: tl.constexpr,
):
    lane, lanes = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    slot = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    valid = slot < V
    above = tl.zeros([BLOCK], tl.float32)
    for step in range(0, LAYERS):
        layer = LAYERS - 1 - step
        raw = _raw(attention, low, high, weight, rate, layer, lane, slot, valid, lanes, V)
        lam = tl.where(step > 0, tl.load(smoothing + layer), 0.0)
        mu, lam = (1.0 - lam).to(tl.float32), lam.to(tl.float32)
        row = (layer * lanes + lane) * V
        if PARTNER:
            upper = tl.minimum(layer + 1, LAYERS - 1)
            at = tl.load(partner + row + slot, mask=valid, other=-1)
            other = _raw(
                attention, low, high, weight, rate, upper, lane, tl.maximum(at, 0), valid, lanes, V
            )
            above = tl.where(at >= 0, other, raw)
        smoothed = mu * raw + lam * above
        tl.store(out + row + slot, smoothed, mask=valid)
        above = smoothed if RECURSIVE else raw
# fmt: on


def blended_scores(
    attention: Tensor,
    weight: Tensor,
    rate: Tensor,
    smoothing: Tensor,
    *,
    partner: Tensor | None = None,
    recursive: bool = False,
) -> Tensor:
    """Smoothed scores ``[L, B, R, V]``; arguments and results as the reference's.

    Source: arXiv 2601.14724, Sec. 3.1 and 3.2.

    Raises:
        HermesError: ``recursive`` with ``partner``: a program would need scores that another one makes.
    """
    if recursive and partner is not None:
        raise HermesError("recursive smoothing by identity has no kernel: use the reference")
    attention = attention.contiguous()
    weight, rate, smoothing = weight.contiguous(), rate.contiguous(), smoothing.contiguous()
    layers, batch, rows, count = attention.shape
    out = torch.empty_like(attention)
    if out.numel() == 0:
        return out
    low, high = torch.aminmax(attention, dim=-1)
    block = 128
    grid: Any = (batch * rows, triton.cdiv(count, block))
    _scores[grid](
        attention,
        low,
        high,
        weight,
        rate,
        smoothing,
        attention if partner is None else partner.contiguous(),
        out,
        count,
        layers,
        PARTNER=partner is not None,
        RECURSIVE=recursive,
        BLOCK=block,
    )
    return out
