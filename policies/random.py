"""Random tokens: the control that any score must beat."""

from __future__ import annotations

from dataclasses import dataclass

from hermes.config import setting
from hermes.parts import RandomScore, Selector, TopK
from hermes.policy import Tier, TieredPolicy


@dataclass
class Random(TieredPolicy):
    """Keep a uniform random sample of the stream's tokens, the same in every layer.

    A control. Each token draws its number once, so the sample stays uniform over the
    whole stream however often it is thinned; ``policy.tiers.all.scorer.redraw=true`` draws anew each step.
    """

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=RandomScore())}, help="one tier")
    selector: Selector = setting(TopK(), before=TopK(timestamps=0.0), help="which tokens stay")
