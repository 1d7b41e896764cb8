"""Attention mass: how much attention each cached token receives, without the attention matrix."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

# Attention weights made at once: as many as stay in a processor's cache.
BLOCK = 1 << 17
# Queries handled at once where their own keys count too: the largest tensor is [B, Hq, QUERIES, T].
QUERIES = 128

Pool = Literal["mean", "max"]


def attention_mass(
    query: Float[Tensor, "B Hq Q D"],
    memory: Float[Tensor, "B Hkv T D"],
    own: Float[Tensor, "B Hkv P D"] | None,
    *,
    scaling: float,
    causal: bool = True,
    per_head: bool = False,
    dtype: torch.dtype = torch.float32,
    pool: Pool = "mean",
) -> Float[Tensor, "B R T"]:
    """Mean or largest softmax attention of the queries to each memory token.

    Source: arXiv 2601.14724, Sec. 3.1 (W, mean over heads, then over query tokens); the largest as in
    arXiv 2505.23416 (KVzip), Sec. 3.

    The softmax runs over the memory and the queries' ``own`` keys; only the memory's columns are returned.
    Query rows are taken a few at a time, so that nothing of size ``[Hq, Q, T]`` is made unless it is small.

    Args:
        query: queries, rotated into the frame of the keys.
        memory: cached keys.
        own: keys that follow the memory, the last Q of them the queries' own; None for none.
        scaling: multiplies the logits (1 / sqrt(D) as a rule).
        causal: query i sees no own key after its own; otherwise all of them.
        per_head: over the query heads of each KV head instead of all heads (R = Hkv, else 1).
        dtype: float32; or float16, in which logits and probabilities are then rounded (the Qwen release).
        pool: mean over query tokens and heads, or the largest.

    Returns:
        float32 ``[B, R, T]``.

    >>> q = torch.zeros(1, 2, 3, 4); k = torch.randn(1, 1, 5, 4)
    >>> attention_mass(q, k, None, scaling=0.5).mul(5).allclose(torch.ones(1, 1, 5))
    True
    """
    b, hq, n, d = query.shape
    hkv = memory.shape[1]
    q = (query.float() * scaling).reshape(b, hkv, -1, d)  # [B, Hkv, G * Q, D], row = g * Q + i
    tail = None
    if own is not None:
        tail = q @ own.float().mT  # [B, Hkv, G * Q, P]
        if causal:
            p = own.shape[2]
            future = torch.ones(n, p, dtype=torch.bool, device=q.device).triu(p - n + 1)
            tail = tail.masked_fill(future.repeat(hq // hkv, 1), float("-inf"))
    exact = dtype is torch.float32
    columns = _columns(q, memory, tail, pool) if exact else _rounded(q, memory, tail, dtype, pool)
    if pool == "max":
        return columns if per_head else columns.amax(1, keepdim=True)
    columns = columns / (hq // hkv * n)
    return columns if per_head else columns.mean(1, keepdim=True)


def _pooled(shares: Tensor, pool: Pool) -> Tensor:
    """Sum, or the largest, over rows: ``[*, n, T]`` to ``[*, T]``."""
    return shares.sum(-2) if pool == "mean" else shares.amax(-2)


def _columns(q: Tensor, memory: Tensor, tail: Tensor | None, pool: Pool) -> Tensor:
    b, hkv, n, _ = q.shape
    t = memory.shape[2]
    width = t + (0 if tail is None else tail.shape[-1])
    if b * hkv * n * width <= BLOCK:
        return _pooled(_shares(q, memory, tail), pool)
    if n * width <= BLOCK // 2:
        # Several heads fit: as few, equal groups of heads as are needed.
        heads = -(-b * hkv // -(-b * hkv * n * width // BLOCK))
        parts = [x.flatten(0, 1).split(heads) for x in (q, memory)]
        tails = [None] * len(parts[0]) if tail is None else tail.flatten(0, 1).split(heads)
        sums = [_pooled(_shares(*part), pool) for part in zip(*parts, tails, strict=True)]
        return torch.cat(sums).view(b, hkv, t)
    # As many blocks of rows as are needed, all of about one size.
    rows, out = -(-n // -(-n * width // BLOCK)), q.new_zeros(b, hkv, t)
    for stream, head in itertools.product(range(b), range(hkv)):
        keys = memory[stream, head].float()
        for start in range(0, n, rows):
            part = None if tail is None else tail[stream, head, start : start + rows]
            some = _pooled(_shares(q[stream, head, start : start + rows], keys, part), pool)
            before = out[stream, head]
            out[stream, head] = before + some if pool == "mean" else torch.maximum(before, some)
    return out


def _shares(q: Tensor, memory: Tensor, tail: Tensor | None) -> Tensor:
    """Attention ``[*, n, T]`` of some query rows to the memory."""
    logits = q @ memory.float().mT
    joined = logits if tail is None else torch.cat((logits, tail), dim=-1)
    return joined.softmax(-1)[..., : memory.shape[-2]]


def _rounded(q: Tensor, memory: Tensor, tail: Tensor | None, dtype: torch.dtype, pool: Pool) -> Tensor:
    """Column sums, or the largest, with all in a low-precision dtype, one KV head at a time."""
    t = memory.shape[2]
    columns = []
    for head in range(memory.shape[1]):
        logits = q[:, head] @ memory[:, head].float().mT
        if tail is not None:
            logits = torch.cat((logits, tail[:, head]), dim=-1)
        columns.append(_pooled(logits.to(dtype).softmax(-1)[..., :t].float(), pool))
    return torch.stack(columns, dim=1)


def attention_received(
    query: Float[Tensor, "B Hq Q D"],
    keys: Float[Tensor, "B Hkv T D"],
    *,
    scaling: float,
    last: int | None = None,
    per_head: bool = False,
) -> Float[Tensor, "B R T"]:
    """Mean causal softmax attention to every key, the queries' own included.

    Source: the column sums that arXiv 2306.14048 (H2O) and 2404.14469 (SnapKV) score by. Query i sees the
    keys up to ``T - Q + i``. Queries go through in blocks: nothing of size ``[Hq, Q, T]`` is made.

    Args:
        query: queries, rotated into the frame of the keys; the last Q keys are their own.
        keys: cached keys and those that follow.
        scaling: multiplies the logits.
        last: only so many of the last queries; None for all.
        per_head: mean over the query heads of each KV head instead of all heads (R = Hkv, else 1).

    Returns:
        float32 ``[B, R, T]``.

    >>> q, k = torch.zeros(1, 1, 2, 4), torch.randn(1, 1, 2, 4)
    >>> attention_received(q, k, scaling=1.0).flatten().tolist()
    [0.75, 0.25]
    """
    b, hq, n, d = query.shape
    hkv, total = keys.shape[1], keys.shape[2]
    grouped = (query.float() * scaling).view(b, hkv, hq // hkv, n, d)
    columns = keys.float().mT
    out = query.new_zeros(b, hkv, total, dtype=torch.float32)
    first = 0 if last is None else max(n - last, 0)
    for start in range(first, n, QUERIES):
        stop = min(start + QUERIES, n)
        end = total - n + stop
        rows = grouped[:, :, :, start:stop].flatten(2, 3)  # [B, Hkv, G * block, D]
        logits = (rows @ columns[..., :end]).unflatten(2, (-1, stop - start))
        future = torch.ones(stop - start, end, dtype=torch.bool, device=query.device).triu(
            end - (stop - start) + 1
        )
        out[..., :end] += logits.masked_fill(future, float("-inf")).softmax(-1).sum((2, 3))
    out = out / (hq // hkv * (n - first))
    return out if per_head else out.mean(1, keepdim=True)
