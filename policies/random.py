"""Random tokens: the control that any score must beat."""

from __future__ import annotations

from dataclasses import dataclass

from hermes.config import setting
from hermes.parts import RandomScore, TopK
from hermes.parts.selectors import Selector
from hermes.tiers import Tier, TieredPolicy


@dataclass
class Random(TieredPolicy):
    """Keep random video tokens, the same in every layer.

    Source: this project (a control). Redrawn at every step, so that old tokens die out exponentially: a
    reservoir would be ``uniform``. ``policy.selector.rank=layer`` draws anew for each layer.
    """

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=RandomScore())}, help="one tier")
    selector: Selector = setting(TopK(rank="all", timestamps=False), help="the same tokens in every layer")
