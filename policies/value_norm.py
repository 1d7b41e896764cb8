"""Value norm: large values stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hermes.config import setting
from hermes.parts import Selector, TopK, ValueNorm
from hermes.policy import Tier, TieredPolicy


@dataclass
class ValueNormPolicy(TieredPolicy):
    """Keep, per KV head, the tokens whose values are largest.

    Source: arXiv 2506.15745, Sec. 3: its value norm (VaN) alone, per KV head, without pooling; as a control.
    Positions: lazy re-indexing.
    """

    source: ClassVar[str] = "arXiv 2506.15745"

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=ValueNorm())}, help="one tier")
    selector: Selector = setting(
        TopK(rank="kv_head"), before=TopK(rank="kv_head", timestamps=0.0), help="which tokens stay"
    )
