"""Replay: what a second reading of each chunk looks back at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.attention import AttentionView, SecondReading
from hermes.config import setting
from hermes.parts.scorers import LayerContext, Scorer


@dataclass
class Replay(Scorer):
    """The largest attention that a second reading of a chunk pays a token, kept for life.

    A chunk's embeddings are read once more, right after the first time; a decoder that has learnt to copy
    looks back at what it would copy from. No question and no guidance prompt takes part. The softmax is over
    all that is held and the second reading itself, the largest over its queries and the query heads.

    This project's. KVzip (arXiv 2505.23416, Sec. 3.2) reconstructs a whole text once, before it is used; this
    reads each chunk of a stream as it comes, over all that is held.

    Worth is relative to the layer's average token, so that layers count alike in one ranking.
    """

    pool: Literal["mean", "max"] = setting("max", help="over the second reading's queries and the heads")
    stride: int = setting(1, help="every n-th token of the chunk is read again", unit="tokens", ge=1)
    always: bool = setting(True, help="after every chunk; false: only where tokens are evicted")
    later: bool = setting(True, help="readings of later chunks may raise a token's worth")
    lead: str = setting("", help="text before the second reading, such as a request to repeat")

    @property
    def follows(self) -> bool:
        """The scorer follows the attention of every second reading."""
        return True

    @property
    def second_reading(self) -> SecondReading:
        """The chunk, or every n-th token of it, after the text that leads."""
        return SecondReading(self.stride, self.always, self.lead)

    def follow(
        self, view: AttentionView, before: Float[Tensor, "B _R T"], per_head: bool
    ) -> Float[Tensor, "B R T"]:
        """The largest attention so far."""
        now = view.mass(per_head=per_head, pool=self.pool)
        if not self.later:
            now = now.where(newest(view), 0.0)
        return torch.maximum(before, now)

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """What was kept, relative to its mean over the layer's tokens."""
        worth = context.followed
        return worth / worth.mean(-1, keepdim=True).clamp(min=torch.finfo(worth.dtype).tiny)


def newest(view: AttentionView) -> Tensor:
    """Which held tokens ``[B, R, T]`` are of the chunk that is read again, as far as it is read."""
    ids = view.tokens.id
    if view.chunk is None:
        return torch.zeros_like(ids, dtype=torch.bool)
    # Ids count up along the stream; texts and summaries have negative ones.
    own = view.chunk.id
    return ids >= int(own[own >= 0].min())
