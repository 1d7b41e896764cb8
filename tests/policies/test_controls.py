"""Key norm, value norm and even frames against their rules as loops."""

from __future__ import annotations

import math

import pytest

from hermes.parts import EvenFrames, RandomScore, TopK, ValueNorm
from hermes.policies.key_norm import KeyNormPolicy
from hermes.policies.stratified import Stratified
from hermes.policies.value_norm import ValueNormPolicy
from hermes.policy import Tier
from tests.support.rivals import HEADS, PREFIX, best, steps

pytestmark = pytest.mark.unit


def norm(row) -> float:
    return math.sqrt(sum(float(x) ** 2 for x in row))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("policy", [KeyNormPolicy, ValueNormPolicy])
def test_norms_choose_per_head(policy, shared):
    keys = policy is KeyNormPolicy
    one = policy(budget=13)
    if shared:
        one.selector.rank = "layer"
    differ = 0
    for _, layers, _ in steps(one):
        for step in layers:
            scores = []
            for head in range(HEADS):
                rows = (step.keys if keys else step.values)[head, PREFIX:]
                ids = step.before[head].id.tolist()[PREFIX:]
                scores.append({i: norm(row) * (-1 if keys else 1) for i, row in zip(ids, rows, strict=True)})
            if shared:
                scores = [{i: sum(score[i] for score in scores) for i in scores[0]}] * HEADS
            for head in range(HEADS):
                assert step.kept(head) == best(scores[head], 13)
            differ += step.kept(0) != step.kept(1)
    assert (differ == 0) == shared


@pytest.mark.parametrize("budget", [5, 20, 34])
@pytest.mark.parametrize("scorer", [RandomScore(), ValueNorm()], ids=["random", "value_norm"])
def test_every_frame_keeps_its_share(budget, scorer):
    policy = Stratified(budget=budget, tiers={"all": Tier(1.0, scorer)})
    for _, layers, _ in steps(policy, (4, 3, 5, 1)):
        for step in layers:
            video = [i for i in step.before[0].id.tolist() if i >= PREFIX]
            if len(video) <= budget:
                continue
            frames = dict(zip(step.before[0].id.tolist(), step.before[0].frame.tolist(), strict=True))
            held = {f: [i for i in video if frames[i] == f] for f in sorted({frames[i] for i in video})}
            kept = step.kept(0)
            assert len(kept) == budget
            floor = budget // len(held) or 1
            for own in held.values():
                count = sum(i in kept for i in own)
                assert count >= min(floor, len(own)) or len(held) > budget
                assert len(held) <= budget or count <= 1


def test_inside_a_frame_the_score_decides():
    policy = Stratified(budget=14, tiers={"all": Tier(1.0, ValueNorm())})
    for _, layers, _ in steps(policy, (4,), layers=1):
        size = {
            i: sum(norm(layers[0].values[head, PREFIX + n]) for head in range(HEADS))
            for n, i in enumerate(layers[0].before[0].id.tolist()[PREFIX:])
        }
        frames = [range(PREFIX + 6 * n, PREFIX + 6 * n + 6) for n in range(4)]
        first = [i for own in frames for i in best({i: size[i] for i in own}, 3)]
        rest = best({i: size[i] for i in size if i not in first}, 2)
        assert layers[0].kept(0) == sorted(first + rest)


def test_a_share_for_the_newest():
    policy = Stratified(budget=10, selector=TopK(recent_share=0.45, recent=2, timestamps=0.0))
    for _, layers, _ in steps(policy):
        assert all(set(step.before[0].id[-4:].tolist()) <= set(step.kept(0)) for step in layers)
    assert EvenFrames(per_frame=7).floor(layers[0].now.video.frame, 10) == 7
