"""Attention mass: how much attention each cached token receives, without the attention matrix."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

# Attention weights made at once: as many as stay in a processor's cache.
BLOCK = 1 << 17


def attention_mass(
    query: Float[Tensor, "B Hq Q D"],
    memory: Float[Tensor, "B Hkv T D"],
    own: Float[Tensor, "B Hkv P D"] | None,
    *,
    scaling: float,
    causal: bool = True,
    per_head: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B R T"]:
    """Mean softmax attention of the queries to each memory token.

    Source: arXiv 2601.14724, Sec. 3.1 (W, mean over heads, then over query tokens).

    The softmax runs over the memory and the queries' ``own`` keys; only the memory's columns are returned.
    Query rows are taken a few at a time, so that nothing of size ``[Hq, Q, T]`` is made unless it is small.

    Args:
        query: queries, rotated into the frame of the keys.
        memory: cached keys.
        own: keys that follow the memory, the last Q of them the queries' own; None for none.
        scaling: multiplies the logits (1 / sqrt(D) as a rule).
        causal: query i sees no own key after its own; otherwise all of them.
        per_head: mean over the query heads of each KV head instead of all heads (R = Hkv, else 1).
        dtype: float32; or float16, in which logits and probabilities are then rounded (the Qwen release).

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
    columns = _columns(q, memory, tail) if exact else _rounded(q, memory, tail, dtype)
    columns = columns / (hq // hkv * n)
    return columns if per_head else columns.mean(1, keepdim=True)


def _columns(q: Tensor, memory: Tensor, tail: Tensor | None) -> Tensor:
    b, hkv, n, _ = q.shape
    t = memory.shape[2]
    width = t + (0 if tail is None else tail.shape[-1])
    if b * hkv * n * width <= BLOCK:
        return _shares(q, memory, tail).sum(2)
    # As many blocks as are needed, all of about one size.
    rows, out = -(-n // -(-n * width // BLOCK)), q.new_zeros(b, hkv, t)
    for stream, head in itertools.product(range(b), range(hkv)):
        keys = memory[stream, head].float()
        for start in range(0, n, rows):
            part = None if tail is None else tail[stream, head, start : start + rows]
            out[stream, head] += _shares(q[stream, head, start : start + rows], keys, part).sum(0)
    return out


def _shares(q: Tensor, memory: Tensor, tail: Tensor | None) -> Tensor:
    """Attention ``[*, n, T]`` of some query rows to the memory."""
    logits = q @ memory.float().mT
    joined = logits if tail is None else torch.cat((logits, tail), dim=-1)
    return joined.softmax(-1)[..., : memory.shape[-2]]


def _rounded(q: Tensor, memory: Tensor, tail: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Column sums with logits and probabilities in a low-precision dtype, one KV head at a time."""
    t = memory.shape[2]
    columns = []
    for head in range(memory.shape[1]):
        logits = q[:, head] @ memory[:, head].float().mT
        if tail is not None:
            logits = torch.cat((logits, tail[:, head]), dim=-1)
        columns.append(logits.to(dtype).softmax(-1)[..., :t].float().sum(1))
    return torch.stack(columns, dim=1)
