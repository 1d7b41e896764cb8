"""What tiers refuse, and what they must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hermes.config import build
from hermes.errors import SettingError
from hermes.memory import KVMemory
from hermes.parts import Blend, Chain, FusedBlend, LayerContext, Recency, Summary, TopK
from hermes.policies.hermes import Hermes
from hermes.policy import StreamContext, Tier, TieredPolicy
from hermes.session.opening import open_session
from hermes.session.session import StreamSession
from hermes.video import open_source
from tests.support.families import make_frames
from tests.support.references import noise_chunk, prefill, tiny, toy_rotary


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


@pytest.mark.model
def test_a_full_tier_keeps_everything_and_leaves_the_others_their_budgets():
    tiers = {
        "a": Tier(0.25, Recency()),
        "b": Tier(0.5, Recency(), full=True),
        "c": Tier(0.25, Recency(), weight=3.0),
    }
    assert TieredPolicy(budget=20, tiers=tiers).budgets(4) == [10, 20, 20, 30]
    tiers["c"] = Tier(0.25, Recency())
    with open_session("tiny_llava_onevision", TieredPolicy(budget=20, tiers=tiers)) as session:
        session.feed(open_source(np.zeros((40, 42, 42, 3), np.uint8)))
        session.flush()
        lengths = [layer.video_length for layer in session.memory]
        layers = session.policy.boundaries(len(lengths))
        whole = session.video.next_id - session.memory.prefix
    for name, held in layers.items():
        assert {lengths[index] for index in held} <= ({whole} if name == "b" else {20})
    assert whole > 20


@pytest.mark.model
@pytest.mark.parametrize("align", ["index", "identity"])
@pytest.mark.parametrize("recursive", [False, True], ids=["raw", "recursive"])
@pytest.mark.parametrize("rank", ["layer", "kv_head"])
def test_scores_of_all_layers_at_once_are_those_of_each(align, recursive, rank, monkeypatch):
    policy = Hermes(budget=24, smoother=Chain(align, recursive), selector=TopK(rank=rank))
    session = StreamSession(tiny("llava_onevision"), policy, chunk_frames=4)
    session.feed(make_frames(12))
    own, memory, observer = session.policy, session.memory, session.observer
    # A chunk more than the budget, so that scores tell tokens apart that layers hold in different slots.
    prefill(session.backbone, memory, noise_chunk(session.backbone, 9, 1, first_id=9000))
    wanted = [True] * len(memory.layers)
    memory.kernels.chosen.clear()
    at_once = own.score(memory, observer, wanted)
    assert "blended_scores" in memory.kernels.chosen
    monkeypatch.setattr(TieredPolicy, "_blended", lambda *_: None)
    for ours, each in zip(at_once, own.score(memory, observer, wanted), strict=True):
        assert torch.equal(ours, each.expand_as(ours))


def test_layers_that_keep_everything_are_not_scored_and_the_others_are():
    policy = Hermes(budget=24)
    policy.tiers["long_term"].full = True
    session = StreamSession(tiny("llava_onevision"), policy, chunk_frames=4)
    session.feed(make_frames(16))
    shallow, *_, deep = session.memory.lengths
    assert shallow <= 24 + session.memory.prefix < deep


def test_parts_of_a_users_own_are_asked_themselves():
    class Mine(Recency):
        def score(self, context):
            return torch.zeros(1, 1, context.length)

    class Other(Blend):
        pass

    layer = KVMemory(1, toy_rotary(1))[0]
    context = LayerContext(layer, 0.5, False, lambda kind: kind, torch.Generator())
    assert Recency().blending(context) == FusedBlend(None, 1.0, 20.0)
    assert Mine().blending(context) is None
    assert Blend(second=Mine()).blending(context) is None
    assert Other().blending(context) is None
