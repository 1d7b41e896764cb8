"""Attention mass in two passes; the reference is :func:`hermes.kernels.attention_mass`.

With logits ``x_rj = scaling q_r . k_j`` over the rows r = (query head in the group, query) of one KV head:

1. log-sum-exp: ``l_r = log sum_j exp(x_rj)`` over the memory and the queries' own keys, online (running
   maximum and sum), the memory cut into ``SPLITS`` parts that run side by side, own keys as one more part;
   parts are joined by a log-sum-exp over ``[parts, rows]``;
2. column sums: ``W_j = (1 / rows) sum_r exp(x_rj - l_r)``, or the largest of its terms, one program a block
   of columns, whose keys stay in registers while all rows pass.

The keys are read twice and nothing of size ``[H, Q, T]`` is made. Products of half-precision operands are
exact and summed in float32. The interpreter computes ``tl.dot`` on bfloat16 wrongly: operands are cast there.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLITS, SPAN = 16, 256


# fmt: off
@triton.jit
@no_type_check
def _rows(query, b, h, r, d, G, Q, D: tl.constexpr, qb, qh, qt, CAST: tl.constexpr):
    """Queries ``[BM, BD]`` of rows ``r`` = (head in group) * Q + query."""
    at = query + b * qb + (h * G + r // Q)[:, None] * qh + (r % Q)[:, None] * qt + d[None, :]
    x = tl.load(at, mask=(r < G * Q)[:, None] & (d < D)[None, :], other=0.0)
    return x.to(tl.float32) if CAST else x


@triton.jit
@no_type_check
def _columns(keys, j, stop, d, D: tl.constexpr, stride, CAST: tl.constexpr):
    """Keys ``[BN, BD]`` of columns ``j``."""
    at = keys + j[:, None] * stride + d[None, :]
    x = tl.load(at, mask=(j < stop)[:, None] & (d < D)[None, :], other=0.0)
    return x.to(tl.float32) if CAST else x


@triton.jit
@no_type_check
def _logits(q, k, scaling, HALF: tl.constexpr):
    x = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
    return x.to(tl.float16).to(tl.float32) if HALF else x


@triton.jit
@no_type_check
def _join(m, s, x):
    """Running maximum and sum of exponentials, with the columns of ``x`` added."""
    top = tl.maximum(m, tl.max(x, axis=1))
    return top, s * tl.exp(m - top) + tl.sum(tl.exp(x - top[:, None]), axis=1)


@triton.jit
@no_type_check
def _lse(
    query, memory, own, out, G, Q, T, H, scaling, per, qb, qh, qt, mb, mh, mt, ob, oh, ot,
    PARTS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, CAUSAL: tl.constexpr, CAST: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):
    lane = tl.program_id(2).to(tl.int64)
    b, h = lane // H, lane % H
    part = tl.program_id(1)
    r, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BD)
    q = _rows(query, b, h, r, d, G, Q, D, qb, qh, qt, CAST)
    m = tl.full([BM], float("-inf"), tl.float32)
    s = tl.zeros([BM], tl.float32)
    if part < PARTS:
        stop = min((part + 1) * per, T)
        for n in range(part * per, stop, BN):
            j = n + tl.arange(0, BN)
            k = _columns(memory + b * mb + h * mh, j.to(tl.int64), stop, d, D, mt, CAST)
            m, s = _join(m, s, tl.where((j < stop)[None, :], _logits(q, k, scaling, HALF), float("-inf")))
    else:
        for n in range(0, Q, BN):
            j = n + tl.arange(0, BN)
            k = _columns(own + b * ob + h * oh, j.to(tl.int64), Q, d, D, ot, CAST)
            seen = (j < Q)[None, :]
            if CAUSAL:
                seen = seen & (j[None, :] <= (r % Q)[:, None])
            m, s = _join(m, s, tl.where(seen, _logits(q, k, scaling, HALF), float("-inf")))
    # out [B * H, parts, G * Q]
    tl.store(out + (lane * tl.num_programs(1) + part) * (G * Q) + r, m + tl.log(s), mask=r < G * Q)


@triton.jit
@no_type_check
def _sums(
    query, memory, lse, out, G, Q, T, H, scaling, qb, qh, qt, mb, mh, mt, D: tl.constexpr,
    HALF: tl.constexpr, CAST: tl.constexpr, LARGEST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BD: tl.constexpr,
):
    lane = tl.program_id(1).to(tl.int64)
    b, h = lane // H, lane % H
    j, d = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BD)
    k = _columns(memory + b * mb + h * mh, j.to(tl.int64), T, d, D, mt, CAST)
    total = tl.zeros([BN], tl.float32)
    for start in range(0, G * Q, BM):
        r = start + tl.arange(0, BM)
        q = _rows(query, b, h, r, d, G, Q, D, qb, qh, qt, CAST)
        sums = tl.load(lse + lane * (G * Q) + r, mask=r < G * Q, other=float("inf"))
        p = tl.exp(_logits(q, k, scaling, HALF) - sums[:, None])
        p = p.to(tl.float16).to(tl.float32) if HALF else p
        total = tl.maximum(total, tl.max(p, axis=0)) if LARGEST else total + tl.sum(p, axis=0)
    tl.store(out + lane * T + j, total if LARGEST else total / (G * Q), mask=j < T)
# fmt: on


def attention_mass(
    query: Tensor,
    memory: Tensor,
    own: Tensor | None,
    *,
    scaling: float,
    causal: bool = True,
    per_head: bool = False,
    dtype: torch.dtype = torch.float32,
    pool: str = "mean",
) -> Tensor:
    """Mean or largest softmax attention of the queries to each memory token, ``[B, R, T]``.

    Source: arXiv 2601.14724, Sec. 3.1. Arguments and results as the reference's.
    """
    batch, _, queries, dim = query.shape
    heads, held = memory.shape[1:3]
    groups = query.shape[1] // heads
    out = torch.empty(batch, heads, held, dtype=torch.float32, device=query.device)
    query, memory = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, memory))
    keys = own if own is not None else memory
    keys = keys if keys.stride(-1) == 1 else keys.contiguous()
    if out.numel() and queries:
        parts = min(SPLITS, triton.cdiv(held, SPAN))
        tail = int(own is not None)
        lse = torch.empty(batch, heads, parts + tail, groups * queries, device=query.device)
        settings: dict[str, Any] = {
            "D": dim,
            "HALF": dtype == torch.float16,
            # float32 operands for tl.dot where the interpreter would be wrong on others.
            "CAST": bool(triton.knobs.runtime.interpret) or query.dtype != memory.dtype,
            "BM": 64 if groups * queries > 32 else 32 if groups * queries > 16 else 16,
            "BN": 64,
            "BD": max(16, triton.next_power_of_2(dim)),
        }
        sizes = (groups, queries, held, heads, scaling)
        strides = (*query.stride()[:3], *memory.stride()[:3])
        grid: Any = (triton.cdiv(groups * queries, settings["BM"]), parts + tail, batch * heads)
        per = triton.cdiv(held, parts)
        _lse[grid](
            query,
            memory,
            keys,
            lse,
            *sizes,
            per,
            *strides,
            *keys.stride()[:3],
            PARTS=parts,
            CAUSAL=causal,
            **settings,
        )
        joined = lse.logsumexp(2) if parts + tail > 1 else lse[:, :, 0]
        grid = (triton.cdiv(held, settings["BN"]), batch * heads)
        largest = pool == "max"
        _sums[grid](query, memory, joined.contiguous(), out, *sizes, *strides, LARGEST=largest, **settings)
    if per_head:
        return out
    return out.amax(1, keepdim=True) if pool == "max" else out.mean(1, keepdim=True)
