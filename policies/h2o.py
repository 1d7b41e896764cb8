"""H2O: heavy hitters and recent tokens, half and half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hermes.config import setting
from hermes.parts import AttentionSum, Selector, TopK
from hermes.policy import Tier, TieredPolicy


@dataclass
class H2O(TieredPolicy):
    """Keep the newest tokens and, per KV head, those that have received the most attention in all.

    Source: arXiv 2306.14048, Alg. 1. Half of the budget each (``policy.selector.recent_share``). The sums run
    over the queries of every chunk, mean over the query heads of a KV head, and go with the token.
    Differences: eviction is once a chunk, not once a token; positions are re-indexed when they run out
    (lazy), where the paper leaves them. ``policy.tiers.all.scorer.per_query=true`` divides a sum by the
    number of queries that could see the token, which the paper does not.
    """

    source: ClassVar[str] = "arXiv 2306.14048"
    needs_attention: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=AttentionSum())}, help="one tier")
    selector: Selector = setting(
        TopK(rank="kv_head", recent_share=0.5),
        before=TopK(rank="kv_head", recent_share=0.5, timestamps=0.0),
        help="which tokens stay",
    )
