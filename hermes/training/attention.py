"""Attention over packed rows: a stream, then slots of questions, without the squares nobody looks at."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

__all__ = ["NAME", "packed_attention", "packed_mask", "register"]

NAME = "hermes_packed"


def register() -> None:
    """Let transformers' models use it, by ``set_attn_implementation({"text_config": NAME})``."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


def packed_mask(
    segment: Int[Tensor, "B n"], seen: Int[Tensor, "B n"], context: int, slot: int
) -> Bool[Tensor, "B 1 n m"]:
    """Whom the question tokens see: of the ``context`` tokens the first ``seen``, and their own past.

    Args:
        segment: number of the question a token belongs to; the n tokens are slots of ``slot``.
        seen: per token, how much of the context.
        context: tokens of prefix and frames.
        slot: tokens of a slot; no question crosses slots.

    >>> packed_mask(torch.tensor([[1, 2]]), torch.tensor([[1, 2]]), context=2, slot=2)[0, 0].int().tolist()
    [[1, 0, 1, 0], [1, 1, 0, 1]]
    """
    shared = torch.arange(context, device=seen.device) < seen[:, :, None]
    slots = segment.unflatten(1, (-1, slot))
    own = (slots[..., :, None] == slots[..., None, :]).tril().flatten(1, 2)
    return torch.cat([shared, own], dim=-1).unsqueeze(1)


def packed_attention(
    module: Any,
    query: Float[Tensor, "B H N D"],
    key: Float[Tensor, "B K N D"],
    value: Float[Tensor, "B K N D"],
    attention_mask: Float[Tensor, "B 1 n m"],
    scaling: float,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B N H D"], None]:
    """Causal attention in the context; questions attend to it and to their slot, as the bias says.

    ``attention_mask`` is added to the scores; n is the questions' tokens, m those of the context and of one
    slot. Everything else of N x N is never computed.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    rows, columns = attention_mask.shape[-2:]
    context = query.shape[2] - rows
    slot = columns - context
    before = F.scaled_dot_product_attention(
        query[:, :, :context], key[:, :, :context], value[:, :, :context], is_causal=True, scale=scaling
    )
    asking = query[:, :, context:] * scaling
    # [B, H, slots, slot, D]
    own_key, own_value = (x[:, :, context:].unflatten(2, (-1, slot)) for x in (key, value))
    shared = asking @ key[:, :, :context].mT
    own = (asking.unflatten(2, (-1, slot)) @ own_key.mT).flatten(2, 3)
    weights = (torch.cat([shared, own], -1) + attention_mask).softmax(-1, dtype=torch.float32).to(value.dtype)
    found = weights[..., :context] @ value[:, :, :context]
    found = found + (weights[..., context:].unflatten(2, (-1, slot)) @ own_value).flatten(2, 3)
    return torch.cat([before, found], 2).transpose(1, 2), None
