"""Bucketed selection: no stretch of the stream is crowded out by another's high scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.config import setting
from hermes.parts.selectors import Selection, Selector, _rank_in_frame, with_stamps


@dataclass
class Buckets(Selector):
    """The newest tokens, the best-scored few, and then the best that still have room in their bucket.

    Source: arXiv 2505.15269v2 (LiveVLM), vision-sink bucketing. Long-term tokens are dealt by their order in
    the cache into ``M / capacity`` buckets, M being the budget without the newest tokens. The best ``first``
    share of M stays wherever it is; the others, best first, only where their bucket is not full, until there
    are M. Difference: the newest tokens (the short-term cache) are a share of the budget here; neither that
    share nor ``first`` is in the paper.
    """

    first: float = setting(0.5, help="share kept whatever its bucket", ge=0, le=1)
    capacity: int = setting(1, help="tokens a bucket holds", unit="tokens", ge=1)
    recent: float = setting(0.25, help="share of the budget for the newest tokens", ge=0, lt=1)
    rank: Literal["layer", "kv_head"] = setting("layer", help="one choice for all heads, or one each")
    timestamps: float = setting(
        0.25, help="share of the budget for the best frames' timestamps, as of top_k", ge=0, le=1, later=True
    )

    @property
    def per_head(self) -> bool:
        """Whether tokens are ranked for each KV head apart: ``rank`` is ``kv_head``."""
        return self.rank == "kv_head"

    def select(self, layers: Sequence[Selection]) -> list[Int[Tensor, "B R K"]]:
        """Per layer, the newest tokens and the bucketed ones."""
        out = []
        for one in layers:
            wide = self.per_head or one.layer.rows > 1
            scores = one.scores if wide else one.scores.mean(1, keepdim=True)
            scores = scores.expand(-1, max(scores.shape[1], one.layer.rows), -1)
            length = scores.shape[-1]
            scores = with_stamps(scores, one.layer, int(self.timestamps * min(one.budget, length)))
            newest = min(int(self.recent * one.budget), length)
            tail = torch.arange(length - newest, length, device=scores.device)
            kept = bucketed(scores[..., : length - newest], one.budget - newest, self.capacity, self.first)
            out.append(torch.cat((kept, tail.expand(*kept.shape[:2], -1)), dim=-1))
        return out


def bucketed(scores: Float[Tensor, "B R L"], count: int, capacity: int, first: float) -> Int[Tensor, "B R M"]:
    """The ``count`` tokens that :class:`Buckets` keeps, ascending.

    Source: arXiv 2505.15269v2 (LiveVLM). Where the buckets cannot hold as many (``count`` is no multiple of
    the capacity), the best of the rest fill up.

    >>> bucketed(torch.tensor([[[9.0, 8.0, 1.0, 2.0]]]), 2, 1, 0.5).tolist()
    [[[0, 3]]]
    """
    length = scores.shape[-1]
    count = min(count, length)
    number = max(-(-count // capacity), 1)
    # Token p = 1 .. L goes into bucket ceil(p / (L / N)): in whole numbers ceil(p N / L).
    place = torch.arange(1, length + 1, device=scores.device)
    bucket = ((place * number + length - 1) // length - 1).expand_as(scores)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(length, device=order.device).expand_as(order)
    )
    early = rank < round(first * count)
    # Those kept already are the best of their bucket, so that ranks go on behind them.
    fits = _rank_in_frame(scores, bucket) < capacity
    preference = rank + length * (~early).long() + length * (~(early | fits)).long()
    return preference.topk(count, dim=-1, largest=False).indices.sort(dim=-1).values
