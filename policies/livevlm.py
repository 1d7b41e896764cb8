"""LiveVLM (v2): bucketed selection by the newest frame's attention, and pages retrieved at the question."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.attention import AttentionView
from hermes.config import setting
from hermes.memory import KVLayer
from hermes.parts import AttentionLedger, Buckets, LayerContext, Lazy, Reindexer, Scorer, Selector
from hermes.policy import Recall, StreamContext, Tier, TieredPolicy
from hermes.tokens import Chunk


@dataclass
class VisionAttention(Scorer):
    """Attention of the last vision tokens of the newest chunk, mean over them.

    Source: arXiv 2505.15269v2 (LiveVLM): no text takes part. Without ``window`` they are the newest frame's.
    """

    window: int | None = setting(None, help="last tokens that look; null: of one frame", unit="tokens", ge=1)

    @property
    def follows(self) -> bool:
        """The scorer follows the attention of every chunk."""
        return True

    def follow(
        self, view: AttentionView, before: Float[Tensor, "B _R T"], per_head: bool
    ) -> Float[Tensor, "B R T_P"]:
        """The newest tokens' attention, whatever was before."""
        return view.received(last=self.window, per_head=per_head)

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """The attention of the token's own chunk, as it was seen."""
        return context.followed


@dataclass
class LiveVlm(TieredPolicy):
    """Short-term memory exact, long-term memory by vision-sink bucketing, an answer from its best pages.

    Source: arXiv 2505.15269v2. After a chunk the last vision tokens' attention scores the long-term ones, and
    :class:`hermes.parts.Buckets` chooses. At a question the long-term tokens of a layer are cut into pages of
    ``page`` consecutive ones; the question's queries attend to the pages' mean un-rotated keys, and the best
    ``pages`` of them answer with all of short-term memory, at contiguous positions.

    Differences: the paper gives neither the observation window (here one frame) nor the short-term length
    (a quarter of the budget, inside it) nor the share of sinks (half); attention to a page is a softmax over
    the pages, mean over heads and the question's tokens. Published: 12 000 tokens, pages of 16, 40 % of them.
    """

    source: ClassVar[str] = "arXiv 2505.15269"
    needs_attention: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=VisionAttention())}, help="one tier")
    selector: Selector = setting(Buckets(), help="which tokens stay; its recent ones are short-term memory")
    reindex: Reindexer = setting(Lazy(), help="when positions become dense again")
    page: int = setting(16, help="consecutive tokens retrieved together", unit="tokens", ge=1)
    pages: float = setting(0.4, help="share of the pages that answer; 1: no retrieval", gt=0, le=1)
    # This stream's own scorers whose window is one frame.
    framed: list[VisionAttention] = field(default_factory=list, init=False, repr=False, compare=False)

    def start(self, context: StreamContext) -> None:
        """Begin a stream; how many tokens a frame has is not known yet."""
        super().start(context)
        self.framed = []
        if self.ledger is not None:
            scorers: dict[int, Scorer] = dict(self.ledger.scorers)
            for index, scorer in scorers.items():
                if isinstance(scorer, VisionAttention) and scorer.window is None:
                    scorers[index] = own = replace(scorer)
                    self.framed.append(own)
            self.ledger = AttentionLedger(scorers, self.ledger.per_head)

    def reduce(self, chunk: Chunk) -> Chunk:
        """Drop nothing; note how many tokens the newest frame has."""
        frame = chunk.tokens.frame.flatten()
        for scorer in self.framed:
            scorer.window = int((frame == frame[-1]).sum())
        return chunk

    def recall(self, call: Recall) -> None:
        """Keep each layer's best pages and short-term memory."""
        share = getattr(self.selector, "recent", 0.0)
        if self.pages == 1 or call.memory[0].video_length <= self.page:
            return
        queries = call.observe.queries(call.question)
        updates = {}
        for layer in call.memory:
            newest = min(int(share * self.budget), layer.video_length)
            old = layer.video_length - newest
            if old:
                worth = page_attention(layer, queries[layer.index][0], old, self.page)
                best = worth.topk(math.ceil(self.pages * len(worth))).indices
                slots = torch.arange(layer.video_length, device=worth.device)
                chosen = torch.isin(slots // self.page, best) | (slots >= old)
                updates[layer.index] = layer.keeping(slots[chosen])
        call.memory.apply(updates, compact=True)


def page_attention(
    layer: KVLayer, queries: Float[Tensor, "Hq n D"], count: int, page: int
) -> Float[Tensor, " P"]:
    """Attention of a question to the mean un-rotated keys of pages of a layer's first video tokens.

    Source: arXiv 2505.15269v2 (LiveVLM), position-agnostic retrieval.
    """
    keys = layer.video_keys()[:, :, :count].float()
    held = layer.take(torch.arange(layer.prefix, layer.prefix + count, device=keys.device)[None, None])
    plain = layer.rotary.unstretched(layer.rotary.rotate(keys, -held.positions)[0])
    means = torch.stack([part.mean(1) for part in plain.split(page, dim=1)], dim=1)  # [H, P, D]
    means = means.repeat_interleave(queries.shape[0] // means.shape[0], dim=0)
    logits = queries.float().to(means.device) @ means.mT / queries.shape[-1] ** 0.5
    mass: Tensor = logits.softmax(-1).mean((0, 1))
    return mass
