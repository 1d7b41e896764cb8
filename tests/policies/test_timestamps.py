"""Qwen3-VL's timestamps: one rule for every selector."""

from __future__ import annotations

import pytest
import torch

from hermes.config import build, config_hash
from hermes.parts import Buckets, Selector, TopK
from hermes.policies.snapkv import SnapKV
from hermes.policy import TieredPolicy
from hermes.registry import registry
from hermes.session.session import StreamSession
from hermes.tokens import TokenKind
from tests.support.families import make_frames, tiny

BUDGET = 80
TIERED = [
    name for name in registry("policy").names() if issubclass(registry("policy").get(name), TieredPolicy)
]


def stamps(session: StreamSession) -> list[int]:
    """Timestamp tokens that each layer holds, of its first head."""
    return [int((layer.video.kind[0, 0] == int(TokenKind.TIMESTAMP)).sum()) for layer in session.memory]


@pytest.mark.parametrize("name", TIERED)
def test_every_selector_has_the_same_rule(name: str) -> None:
    assert build(registry("policy").get(name)).selector.timestamps == TopK().timestamps == 0.25


@pytest.mark.model
@pytest.mark.parametrize("name", TIERED)
def test_a_quarter_of_the_budget_at_most_is_for_whole_timestamps(name: str) -> None:
    backbone = tiny("qwen3_vl")
    session = StreamSession(backbone, build(registry("policy").get(name), {"budget": BUDGET}), chunk_frames=4)
    session.feed(make_frames(32))
    session.flush()
    own = backbone._stamp(1.0).shape[1] + 1
    for layer, held in zip(session.memory, stamps(session), strict=True):
        if layer.video_length > BUDGET:  # a share of the layers may have more by its weight
            continue
        assert held <= 0.25 * BUDGET
        table = layer.video
        frames = table.frame[0, 0][table.kind[0, 0] == int(TokenKind.TIMESTAMP)]
        # Each whole: a stamp of the first frames is as long as any here.
        assert set(torch.bincount(frames).tolist()) <= {0, own}
    if session.policy.trigger == "layer":
        assert max(stamps(session)) >= own


def test_the_rule_leaves_the_hashes_of_before() -> None:
    assert config_hash(SnapKV()) == config_hash(SnapKV(selector=TopK(rank="kv_head", timestamps=0.0)))
    assert config_hash(SnapKV()) != config_hash(SnapKV(selector=TopK(rank="kv_head", timestamps=0.5)))


@pytest.mark.model
@pytest.mark.parametrize(
    "selector", [TopK(timestamps=0.0), Buckets(timestamps=0.0)], ids=["top_k", "buckets"]
)
def test_without_a_share_they_compete_like_any_token(selector: Selector) -> None:
    backbone = tiny("qwen3_vl")
    policy = build(registry("policy").get("hermes"), {"budget": BUDGET, "selector": selector})
    session = StreamSession(backbone, policy, chunk_frames=4)
    session.feed(make_frames(32))
    own, sizes = backbone._stamp(1.0).shape[1] + 1, set[int]()
    for layer in session.memory:
        kind, frame = layer.video.kind[0, 0], layer.video.frame[0, 0]
        sizes |= set(torch.bincount(frame[kind == int(TokenKind.TIMESTAMP)]).tolist())
    assert sizes - {0, own}
