"""Stratified: every frame keeps its share."""

from __future__ import annotations

from dataclasses import dataclass

from hermes.config import setting
from hermes.parts import EvenFrames, RandomScore, Selector
from hermes.policy import Tier, TieredPolicy


@dataclass
class Stratified(TieredPolicy):
    """Spread the budget evenly over the frames held; inside a frame a random sample stays.

    A control. Which tokens of a frame stay is the scorer's choice, as in any policy
    of tiers: ``policy.tiers.all.scorer=guided_attention`` for the best-attended ones. For a floor of n
    tokens a frame, and the rest by score over all frames: ``policy.selector={name: top_k, per_frame: n}``.
    Positions: lazy re-indexing.
    """

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=RandomScore())}, help="one tier")
    selector: Selector = setting(EvenFrames(), before=EvenFrames(timestamps=0.0), help="which tokens stay")
