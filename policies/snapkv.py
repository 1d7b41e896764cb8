"""SnapKV: what the newest tokens attend to, and those tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hermes.config import setting
from hermes.parts import Selector, TopK, WindowAttention
from hermes.policy import Tier, TieredPolicy


@dataclass
class SnapKV(TieredPolicy):
    """Keep the last tokens of the stream and, per KV head, those that their queries attend to most.

    Source: arXiv 2404.14469, Sec. 4. Attention of the last 32 tokens of the newest frame, mean over them and
    over the query heads of a KV head, pooled over 5 neighbours along the cache. Differences: the paper
    compresses a prompt once, from the question's tokens, and this one a stream after every chunk, as the
    question is not known yet; positions are re-indexed when they run out (lazy), where the paper keeps them.

    With ``policy.selector.rank`` other than ``kv_head`` all heads share a choice.
    """

    source: ClassVar[str] = "arXiv 2404.14469"
    needs_attention: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=WindowAttention())}, help="one tier")
    selector: Selector = setting(
        TopK(rank="kv_head"), before=TopK(rank="kv_head", timestamps=0.0), help="which tokens stay"
    )
