"""Key norm: small keys stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hermes.config import setting
from hermes.parts import KeyNorm, Selector, TopK
from hermes.policy import Tier, TieredPolicy


@dataclass
class KeyNormPolicy(TieredPolicy):
    """Keep, per KV head, the tokens whose keys are smallest.

    Source: arXiv 2406.11430, Sec. 3. Differences: the paper compresses a prompt once, and leaves some layers
    alone; this one a stream after every chunk, in every layer. Positions: lazy re-indexing.
    """

    source: ClassVar[str] = "arXiv 2406.11430"

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=KeyNorm())}, help="one tier")
    selector: Selector = setting(
        TopK(rank="kv_head"), before=TopK(rank="kv_head", timestamps=0.0), help="which tokens stay"
    )
