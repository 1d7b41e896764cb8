"""Qwen3-VL's timestamps: one rule for every selector."""

from __future__ import annotations

import pytest
import torch

from hermes.config import build, config_hash
from hermes.parts import Buckets, EvenFrames, Selection, Selector, TopK
from hermes.policies.snapkv import SnapKV
from hermes.policy import TieredPolicy
from hermes.registry import registry
from hermes.session.session import StreamSession
from hermes.tokens import TokenKind
from tests.support.families import make_frames, tiny
from tests.support.parts_cases import memory_of

BUDGET = 80
TIERED = [
    name for name in registry("policy").names() if issubclass(registry("policy").get(name), TieredPolicy)
]


@pytest.mark.parametrize("name", TIERED)
def test_every_selector_has_the_same_rule(name: str) -> None:
    assert build(registry("policy").get(name)).selector.timestamps == TopK().timestamps == 0.25


SELECTORS = {
    "top_k": TopK(),
    "heads": TopK(rank="kv_head"),
    "recent": TopK(recent_share=0.5),
    "even_frames": EvenFrames(),
    "buckets": Buckets(),
    "bucket heads": Buckets(rank="kv_head"),
}


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("number", range(4))
def test_the_best_frames_keep_their_timestamps_whole(name: str, number: int) -> None:
    frames, own, seen, budget = 10, 4, 12, 60
    kinds = frames * [*own * [int(TokenKind.TIMESTAMP)], *seen * [int(TokenKind.VISUAL)]]
    frame = torch.arange(frames).repeat_interleave(own + seen)
    layer = memory_of({"id": range(len(kinds)), "frame": frame, "kind": kinds})[0]
    scores = torch.rand(1, 2, len(kinds), generator=torch.Generator().manual_seed(number))
    if not SELECTORS[name].per_head:
        scores = scores[:, :1]
    kept = SELECTORS[name].select([Selection(layer, scores, budget, "a")])[0]
    for row, score in zip(kept[0], scores[0], strict=True):
        of = frame[[i for i in row.tolist() if kinds[i] == TokenKind.TIMESTAMP]]
        whole = torch.bincount(of, minlength=frames)
        # Three frames of four tokens and one of their own fit a quarter of the budget; the newest tokens of a
        # cache of its own (buckets) come besides, as they are.
        assert whole.max() == own
        best = score.view(frames, -1)[:, own:].amax(-1).argsort(descending=True)[:3]
        assert (whole[best] == own).all()
        if not isinstance(SELECTORS[name], Buckets):
            assert sorted(whole[whole > 0].tolist()) == [own] * 3


@pytest.mark.model
@pytest.mark.parametrize("name", TIERED)
def test_every_policy_with_a_selector_holds_whole_timestamps(name: str) -> None:
    backbone = tiny("qwen3_vl")
    policy = build(registry("policy").get(name), {"budget": BUDGET})
    session = StreamSession(backbone, policy, chunk_frames=4)
    session.feed(make_frames(32))
    most = 0
    for layer in session.memory:
        for kind, frame in zip(layer.video.kind[0], layer.video.frame[0], strict=True):
            most = max(most, *torch.bincount(frame[kind == int(TokenKind.TIMESTAMP)]).tolist(), 0)
    assert most >= backbone._stamp(1.0).shape[1] + 1


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
