"""Scorers, smoothers, selectors, mergers, re-indexers, tiers and the simple policies, against loops."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.attention import Guidance
from hermes.errors import SettingError
from hermes.parts import (
    Blend,
    Chain,
    Drop,
    Eager,
    GuidedAttention,
    Lazy,
    Never,
    RandomScore,
    Recency,
    Selection,
    Summary,
    TopK,
)
from hermes.policies.hermes import Hermes
from hermes.policies.hermes_release import HermesRelease
from hermes.policy import Tier, TieredPolicy
from hermes.tokens import TokenKind
from tests.support.memory_cases import toy
from tests.support.parts_cases import context_of, memory_of, scaled, smoothed, stream_context, unit
from tests.support.tolerances import close

# -- scorers -----------------------------------------------------------------------------------------------


@unit
@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize(("k", "drop", "depth"), [(20, 0, 0.4), (20, 12, 0.5), (20, 19.5, 5 / 6), (0, 0, 0)])
def test_recency_forgets_exponentially(length, k, drop, depth):
    layer = memory_of({"id": range(length)})[0]
    age = [(length - 1 - i) / max(length - 1, 1) for i in range(length)]
    expected = scaled([math.exp(-(k - drop * depth) * a) for a in age])
    close("scores", Recency(k, drop).score(context_of(layer, depth))[0, 0], torch.tensor(expected))


@unit
def test_blend_weighs_attention_against_recency():
    layer = memory_of({"id": range(6)})[0]
    mass = torch.tensor([[[0.3, 0.1, 0.05, 0.2, 0.1, 0.02]]])
    scorer = Blend(GuidedAttention(prompt="mixed"), Recency(k_drop=12.0), 0.75, 0.6)
    context = context_of(layer, 0.5, ask_mixed=mass)
    assert list(scorer.queries(context)) == [Guidance("ask_mixed")]
    recency = scaled([math.exp(-14 * (5 - i) / 5) for i in range(6)])
    attention = scaled(mass[0, 0].tolist())
    expected = [0.55 * a + 0.45 * r for a, r in zip(attention, recency, strict=True)]
    close("scores", scorer.score(context)[0, 0], torch.tensor(expected))


@unit
def test_random_numbers_stay_with_their_token():
    memory = memory_of({"id": range(1000)}, {"id": range(500, 1500)})
    one, two = (RandomScore().score(context_of(layer))[0, 0] for layer in memory)
    assert torch.equal(one[500:], two[:500])
    assert torch.equal(one, RandomScore().score(context_of(memory[0]))[0, 0])
    assert not torch.equal(one, RandomScore().score(context_of(memory[0], seed=1))[0, 0])
    assert one.unique().numel() > 990
    # Ten equal bins, 150 of 1500 expected in each: five standard deviations are 58.
    counts = torch.histc(torch.cat((one, two[500:])), bins=10, min=0, max=1)
    assert (counts - 150).abs().max() < 58
    RandomScore().score(context_of(memory[0], seed=2**63))
    redrawn = RandomScore(redraw=True)
    context = context_of(memory[0])
    assert not torch.equal(redrawn.score(context), redrawn.score(context))


# -- smoothing ---------------------------------------------------------------------------------------------


layer_ids = st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True).map(sorted)


@unit
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    ids=st.lists(layer_ids, min_size=1, max_size=5),
    align=st.sampled_from(["index", "identity"]),
    recursive=st.booleans(),
    data=st.data(),
)
def test_smoothing_down_the_layers(ids, align, recursive, data):
    weights = [data.draw(st.sampled_from([0.0, 0.1, 0.4])) for _ in ids]
    wanted = [data.draw(st.booleans()) for _ in ids]
    scores = [[math.sin(7 * token + 3 * layer) for token in row] for layer, row in enumerate(ids)]
    expected = smoothed(scores, weights, ids, align, recursive)
    memory = memory_of(*({"id": row} for row in ids))
    chain = Chain(align, recursive)
    tensors = [torch.tensor(row).view(1, 1, -1) for row in scores]
    for row, ours in zip(expected, chain.smooth(tensors, weights, memory.layers), strict=True):
        close("scores", ours[0, 0], torch.tensor(row))
    # What is not needed need not be there.
    needed = chain.needs(wanted, weights)
    some = [tensor if need else None for tensor, need in zip(tensors, needed, strict=True)]
    for want, row, ours in zip(wanted, expected, chain.smooth(some, weights, memory.layers), strict=True):
        if want:
            close("scores", ours[0, 0], torch.tensor(row))
    assert [score is None for score in chain.smooth(some, weights, memory.layers)] == [not n for n in needed]


@unit
def test_smoothing_needs_no_more_than_it_must():
    wanted = [True, False, False, False, True]
    assert Chain().needs(wanted, [0.1] * 5) == [True, True, False, False, True]
    assert Chain(recursive=True).needs(wanted, [0.1] * 5) == [True] * 5
    assert Chain(recursive=True).needs(wanted, [0.1, 0.3, 0.0, 0.4, 0.4]) == [True, True, True, False, True]
    assert Chain().needs(wanted, [0.0] * 5) == wanted


# -- selection ---------------------------------------------------------------------------------------------


@unit
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data(), length=st.integers(1, 24), recent=st.integers(0, 6), per_frame=st.integers(0, 3))
def test_top_k_takes_what_is_set_aside_then_the_best(data, length, recent, per_frame):
    """Protected tokens, then the newest, then each frame's best, then the rest by score."""
    frame = sorted(data.draw(st.lists(st.integers(0, 4), min_size=length, max_size=length)))
    protected = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    score = data.draw(st.permutations(range(length)))
    budget = data.draw(st.integers(1, length + 3))
    columns = {"id": range(length), "frame": frame, "protected": [int(p) for p in protected], "kind": 1}
    layer = memory_of(columns)[0]
    chosen = TopK(recent=recent, per_frame=per_frame).select(
        [Selection(layer, torch.tensor(score).float().view(1, 1, -1), budget, "a")]
    )[0]

    def rank(i: int) -> tuple[bool, bool, bool, int]:
        better = sum(1 for j in range(length) if frame[j] == frame[i] and score[j] > score[i])
        return (protected[i], i >= length - recent, better < per_frame, score[i])

    expected = sorted(range(length), key=rank, reverse=True)[:budget]
    assert sorted(chosen[0, 0].tolist()) == sorted(expected)


@unit
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), frames=st.integers(1, 5), budget=st.integers(1, 12))
def test_the_best_frames_keep_their_timestamps_whole(data, frames, budget):
    kinds, frame = [], []
    for number in range(frames):
        visual = data.draw(st.integers(0, 4))
        kinds += [int(TokenKind.TIMESTAMP)] * 2 + [int(TokenKind.VISUAL)] * visual
        frame += [number] * (2 + visual)
    length = len(kinds)
    score = data.draw(st.permutations(range(length)))
    layer = memory_of({"id": range(length), "frame": frame, "kind": kinds})[0]
    selection = Selection(layer, torch.tensor(score).float().view(1, 1, -1), budget, "a")
    kept = TopK(timestamps=0.5).select([selection])[0][0, 0].tolist()

    visual = {f: [i for i in range(length) if frame[i] == f and kinds[i] == TokenKind.VISUAL] for f in frame}
    best = {f: max(own, key=score.__getitem__) for f, own in visual.items() if own}
    room, first = int(0.5 * min(budget, length)), []
    for f in sorted(best, key=lambda f: score[best[f]], reverse=True):
        whole = [best[f], *(i for i in range(length) if frame[i] == f and kinds[i] == TokenKind.TIMESTAMP)]
        if len(first) + len(whole) > room:
            break
        first += whole
    rest = [i for i in range(length) if i not in first]
    rest.sort(key=lambda i: (kinds[i] == TokenKind.VISUAL, score[i]), reverse=True)
    assert sorted(kept) == sorted((first + rest)[:budget])
    alone = TopK(timestamps=0.0).select([selection])[0][0, 0].tolist()
    assert sorted(score[i] for i in alone) == sorted(score, reverse=True)[:budget][::-1]


@unit
@pytest.mark.parametrize("rank", ["tier", "all"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(ids=st.lists(layer_ids, min_size=1, max_size=5), budget=st.integers(1, 8), data=st.data())
def test_a_shared_ranking_averages_over_the_layers_that_hold_a_token(rank, ids, budget, data):
    tiers = [data.draw(st.sampled_from(["a", "b"])) for _ in ids]
    scores = [[math.sin(7 * token + 3 * layer) for token in row] for layer, row in enumerate(ids)]
    memory = memory_of(*({"id": row, "kind": 1} for row in ids))
    selections = [
        Selection(layer, torch.tensor(row).view(1, 1, -1), budget, tier)
        for layer, row, tier in zip(memory, scores, tiers, strict=True)
    ]
    for at, kept in enumerate(TopK(rank=rank).select(selections)):
        group = [i for i in range(len(ids)) if rank == "all" or tiers[i] == tiers[at]]

        def mean(token: int, group: list[int] = group) -> float:
            held = [scores[i][ids[i].index(token)] for i in group if token in ids[i]]
            return sum(held) / len(held)

        expected = sorted(ids[at], key=mean, reverse=True)[:budget]
        assert sorted(ids[at][slot] for slot in kept[0, 0].tolist()) == sorted(expected)


@unit
def test_every_head_ranks_for_itself_or_all_rank_their_mean():
    layer = memory_of({"id": range(4), "kind": 1})[0]
    scores = torch.tensor([[[4.0, 3, 2, 1], [0.0, 5, 8, 1]]])
    one = Selection(layer, scores, 2, "a")
    assert TopK(rank="kv_head").per_head
    assert TopK(rank="kv_head").select([one])[0].sort().values.tolist() == [[[0, 1], [1, 2]]]
    assert TopK().select([one])[0].sort().values.tolist() == [[[1, 2]]]
    layer.widen(2)
    assert TopK().select([one])[0].sort().values.tolist() == [[[0, 1], [1, 2]]]


# -- tiers and budgets -------------------------------------------------------------------------------------


@unit
@pytest.mark.parametrize("layers", range(1, 81))
def test_tiers_of_the_paper_for_any_depth(layers):
    short, long = Fraction(1, 10) * layers, Fraction(7, 10) * layers
    expected = {
        "sensory": range(0, math.floor(short)),
        "working": range(math.floor(short), math.floor(long)),
        "long_term": range(math.floor(long), layers),
    }
    for policy in (Hermes(), HermesRelease()):
        assert policy.boundaries(layers) == expected


@unit
@settings(max_examples=80, deadline=None, derandomize=True)
@given(parts=st.lists(st.integers(1, 9), min_size=1, max_size=7), layers=st.integers(1, 80))
def test_any_shares_cover_every_layer_once(parts, layers):
    total = sum(parts)
    tiers = {f"t{i}": Tier(part / total, Recency()) for i, part in enumerate(parts)}
    found = TieredPolicy(tiers=tiers).boundaries(layers)
    assert [layer for held in found.values() for layer in held] == list(range(layers))
    for i, name in enumerate(tiers):
        assert found[name].stop == math.floor(Fraction(sum(parts[: i + 1]), total) * layers)


@unit
@pytest.mark.parametrize(
    "weights", [("1.3", "1", "0.7"), ("0.7", "1.6", "0.7"), ("0.7", "1", "1.3"), ("1", "1", "1")]
)
@pytest.mark.parametrize("layers", [10, 24, 28, 36, 64])
@pytest.mark.parametrize("budget", [6000, 4000, 257])
def test_budgets_by_weight_as_in_table_5(weights, layers, budget):
    policy = Hermes(budget=budget)
    per_layer = []
    for (name, tier), weight in zip(policy.tiers.items(), weights, strict=True):
        tier.weight = float(weight)
        per_layer += [Fraction(weight)] * len(policy.boundaries(layers)[name])
    total = budget * layers
    expected = [math.floor(weight / sum(per_layer) * total) for weight in per_layer]
    expected[-1] += total - sum(expected)
    assert policy.budgets(layers) == expected
    assert sum(policy.budgets(layers)) == total


@unit
def test_tiers_that_do_not_cover_the_layers_are_refused():
    with pytest.raises(SettingError, match=r"They sum to 0\.9"):
        TieredPolicy(tiers={"a": Tier(0.5, Recency()), "b": Tier(0.4, Recency())})
    with pytest.raises(SettingError, match="no tier"):
        TieredPolicy()
    tight = Hermes(budget=1)
    with pytest.raises(SettingError, match=r"policy\.budget"):
        tight.start(stream_context())


# -- mergers and re-indexers -------------------------------------------------------------------------------


@unit
def test_summary_weights():
    layer = memory_of({"id": range(5), "weight": [1, 6, 1, 2, 1]})[0]
    evicted = torch.tensor([[[3, 4, 5]]])  # tokens 1, 2 and 3: two prefix tokens come before
    assert Drop().merge(layer, evicted) is None
    assert (Drop().slots, Summary().slots) == (0, 1)
    mean, mass = (Summary(weights).merge(layer, evicted) for weights in ("mean", "mass"))
    assert mean.members.tolist() == mass.members.tolist() == [[[3, 4, 5]]]
    close("scores", mean.weights, torch.full((1, 1, 3), 1 / 3))
    close("scores", mass.weights, torch.tensor([[[6 / 9, 1 / 9, 2 / 9]]]))


@unit
@pytest.mark.parametrize(
    ("reindexer", "above", "compressing", "due"),
    [
        (Never(), 10**6, True, False),
        (Eager(), -50, True, True),
        (Eager(), 10**6, False, False),
        (Lazy(margin=30, whole_chunk=False), 0, True, False),
        (Lazy(margin=30, whole_chunk=False), 1, True, True),
        (Lazy(margin=30, whole_chunk=False), 1, False, True),
        (Lazy(margin=30, whole_chunk=False, only_compressing=True), 1, False, False),
        (Lazy(margin=22), 0, True, False),
        (Lazy(margin=22), 1, True, True),
    ],
    ids=repr,
)
def test_when_positions_are_compacted(reindexer, above, compressing, due):
    """The largest position is so far ``above`` a limit that is 30 below the range; a chunk takes 8."""
    memory, _ = toy()
    max_position = int(memory.largest_position()) + 30 - above
    assert reindexer.due(memory, compressing=compressing, max_position=max_position, extent=8) is due


@unit
def test_the_release_keeps_a_margin_of_1024_and_looks_when_it_evicts():
    assert HermesRelease().reindex == Lazy(margin=1024, whole_chunk=False, only_compressing=True)
    assert Hermes().reindex == Lazy(margin=1024)
