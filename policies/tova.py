"""TOVA: what the last token attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hermes.config import setting
from hermes.parts import Selector, TopK, WindowAttention
from hermes.policy import Tier, TieredPolicy


@dataclass
class Tova(TieredPolicy):
    """Keep the tokens that the last token of the stream attends to most, and itself.

    Source: arXiv 2401.06104, Sec. 3.2. Mean over all heads, one choice for the heads of a layer. Differences:
    eviction is once a chunk, so the last token is the newest patch of the newest frame; positions are
    re-indexed when they run out (lazy), where the paper keeps them.
    """

    source: ClassVar[str] = "arXiv 2401.06104"
    needs_attention: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting(
        {"all": Tier(share=1.0, scorer=WindowAttention(window=1, kernel=1))}, help="one tier"
    )
    selector: Selector = setting(TopK(), before=TopK(timestamps=0.0), help="which tokens stay")
