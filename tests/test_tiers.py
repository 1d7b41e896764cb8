"""What tiers refuse, and what they must not."""

from __future__ import annotations

import pytest
import torch

from hermes.config import build
from hermes.errors import SettingError
from hermes.parts import Blend, Recency, Summary
from hermes.policy import StreamContext
from hermes.tiers import Tier, TieredPolicy


def context(layers: int) -> StreamContext:
    return StreamContext(layers, 2, 100, torch.Generator(), lambda h, w: 4)


def test_only_the_layers_with_summaries_need_room_for_them():
    tiers = {"near": Tier(0.5, Recency()), "far": Tier(0.5, Recency(), Summary(), weight=3.0)}
    policy = TieredPolicy(budget=1, tiers=tiers)
    # Half a token for the near layers rounds to none, and that is too little.
    with pytest.raises(SettingError, match=r"policy\.budget"):
        policy.start(context(4))
    # One token for the near layers, three for the far ones, which keep two besides the summary.
    TieredPolicy(budget=2, tiers=tiers).start(context(4))
    with pytest.raises(SettingError, match=r"policy\.budget"):
        TieredPolicy(budget=1, tiers={"far": Tier(1.0, Recency(), Summary())}).start(context(4))


def test_a_blend_stays_a_blend():
    with pytest.raises(SettingError, match=r"weight_drop: got 0\.6; allowed: at most weight, 0\.5"):
        Blend(weight=0.5)
    assert build(Blend, {"weight": 0.5, "weight_drop": 0.5}).weight == 0.5
    with pytest.raises(SettingError, match="weight_drop"):
        build(Blend, {"weight_drop": -0.1})
