"""Rotation by given angles as one Triton kernel; the reference is :func:`hermes.kernels.rotate`."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor


# fmt: off
@triton.jit
@no_type_check
def _rotate(
    x, cos, sin, out, B1, B2, T, x0, x1, x2, xt, c0, c1, c2, ct, HALF: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    i0, i1, i2 = row // (B1 * B2), row // B2 % B1, row % B2
    t = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[:, None]
    c = tl.arange(0, WIDTH)[None, :]
    inside = (t < T) & (c < HALF)
    at = x + i0 * x0 + i1 * x1 + i2 * x2 + t * xt + c
    angle = i0 * c0 + i1 * c1 + i2 * c2 + t * ct + c
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    co = tl.load(cos + angle, mask=inside, other=0.0)
    si = tl.load(sin + angle, mask=inside, other=0.0)
    to = out + (row * T + t) * (2 * HALF) + c
    kind = out.dtype.element_ty
    tl.store(to, (first * co - second * si).to(kind), mask=inside)
    tl.store(to + HALF, (second * co + first * si).to(kind), mask=inside)
# fmt: on


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x [*batch, T, D]`` by angles ``[*#batch, #T, D/2]``, one read and one write of ``x``.

    ``out[c] = x[c] cos - x[c + D/2] sin``, ``out[c + D/2] = x[c + D/2] cos + x[c] sin``, in float32. At most
    three batch axes.
    """
    shape, half = x.shape, x.shape[-1] // 2
    cos, sin = (part.expand(*shape[:-1], half) for part in (cos, sin))
    if sin.stride() != cos.stride() or cos.stride(-1) != 1:
        cos, sin = cos.contiguous(), sin.contiguous()
    x = x if x.stride(-1) == 1 else x.contiguous()
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    lead = (None,) * (5 - x.ndim)
    x, cos, sin = x[lead], cos[lead], sin[lead]
    block = 32
    grid: Any = (triton.cdiv(x.shape[3], block), x.shape[0] * x.shape[1] * x.shape[2])
    _rotate[grid](
        x,
        cos,
        sin,
        out,
        x.shape[1],
        x.shape[2],
        x.shape[3],
        *x.stride()[:4],
        *cos.stride()[:4],
        HALF=half,
        BLOCK=block,
        WIDTH=triton.next_power_of_2(half),
    )
    return out
