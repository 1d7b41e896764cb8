"""Tiers are found where they were planted, none where there are none, and their config runs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import hermes
from hermes.analysis.discovery import discover, features
from hermes.analysis.measures import LayerMeasures, measure, summarise
from hermes.analysis.segments import fitted, segment, segments_supported, standardised, structure_p
from hermes.analysis.synthetic import planted, shuffled
from hermes.errors import InputError
from hermes.parts import Blend, Drop, GuidedAttention, Recency, Summary
from hermes.policy import TieredPolicy
from hermes.session.config import run_config

SIZE = 16


def measured(attention, size=SIZE):
    return [[measure(layer, size) for layer in row] for row in attention]


def videos(attention):
    return [question % -(-len(attention) // 4) for question in range(len(attention))]


def found(attention, size=SIZE, **more):
    return discover(measured(attention, size), videos(attention), **more)


def firsts(discovery):
    return [boundary.layer for boundary in discovery.boundaries]


def near(discovery, boundaries):
    layers = firsts(discovery)
    return len(layers) == len(boundaries) and all(
        abs(a - b) <= 1 for a, b in zip(layers, boundaries, strict=True)
    )


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_planted_boundaries_are_found_and_shuffled_ones_are_not(noise):
    right = none = 0
    for seed in range(3):
        attention = planted(28, 16, SIZE, [2, 19], 8, seed, noise)
        right += near(found(attention, resamples=1, seed=seed), [2, 19])
        none += len(found(shuffled(attention, seed), resamples=1, seed=seed).tiers) == 1
    assert (right, none) == (3, 3)


@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("noise", "first"), [(0.5, 1000), (1.0, 1100)])
def test_planted_boundaries_are_found_in_95_of_100(noise, first):
    right = none = unordered = 0
    for seed in range(first, first + 100):
        attention = planted(28, 16, SIZE, [2, 19], 20, seed, noise)
        rows, of = measured(attention), videos(attention)
        right += near(discover(rows, of, resamples=1, seed=seed), [2, 19])
        none += len(found(shuffled(attention, seed), resamples=1, seed=seed).tiers) == 1
        # Whole layers in another order: what was measured of each stays.
        order = np.random.default_rng(seed).permutation(28)
        whole = [[row[layer] for layer in order] for row in rows]
        unordered += len(discover(whole, of, resamples=1, seed=seed).tiers) == 1
    assert min(right, none, unordered) >= 95, (right, none, unordered)


def test_tiers_of_other_numbers_and_orders():
    cases = [
        (("recency", "anchor"), [8]),
        (("recency", "mixed", "anchor", "none"), [4, 11, 20]),
        (("mixed", "none", "recency"), [9, 18]),
    ]
    for kinds, boundaries in cases:
        got = found(planted(28, 12, SIZE, boundaries, 8, 0, 0.5, kinds=kinds))
        assert [tier.kind for tier in got.tiers] == list(kinds)
        assert near(got, boundaries)
        assert got.sentence.startswith(f"The evidence supports {len(kinds)} tiers")
        assert all(edge.low <= edge.layer <= edge.high for edge in got.boundaries)
        assert ("The paper" in got.sentence) == (len(kinds) != 3)


def test_one_kind_of_layer_is_one_tier():
    for kind in ("recency", "anchor", "none"):
        got = found(planted(24, 16, SIZE, [], 6, 1, 0.7, kinds=[kind]))
        assert [tier.kind for tier in got.tiers] == [kind]
        assert "No structure over depth was found" in got.sentence
        assert got.boundaries == ()


def test_a_working_tier_may_slope_as_the_papers_does():
    attention = planted(28, 16, SIZE, [2, 19], 8, 3, 0.5, drop=0.4)
    got = found(attention)
    assert near(got, [2, 19])
    working = got.tiers[1]
    assert working.recency == pytest.approx(0.6, abs=0.1)
    assert working.recency_drop == pytest.approx(0.4, abs=0.15)


def test_an_even_change_over_depth_is_no_tier():
    random = np.random.default_rng(0)
    ages = 0.2 + 0.01 * np.arange(24) + 0.002 * random.normal(size=(6, 24))
    rows = [
        [LayerMeasures(0, mean_age=age, rhythm=0.1, gini=0.3, recency=0.3, k=9) for age in r] for r in ages
    ]
    got = discover(rows)
    assert len(got.tiers) == 1
    assert "but evenly, without a step" in got.sentence


def test_parameters_are_the_planted_ones():
    got = found(planted(24, 24, SIZE, [4, 14], 8, 5, 0.5, k=15.0))
    sensory, working, deep = got.tiers
    assert (sensory.name, working.name, deep.name) == ("sensory", "working", "long_term")
    assert sensory.recency == pytest.approx(0.8, abs=0.1)
    assert working.recency - working.recency_drop / 2 == pytest.approx(0.4, abs=0.08)
    assert deep.recency < 0.1
    assert sensory.k == pytest.approx(15, rel=0.15)
    assert sensory.weight < min(working.weight, deep.weight)


def test_the_config_is_what_was_found(tmp_path):
    got = found(planted(24, 16, SIZE, [3, 16], 8, 5, 0.5))
    path = tmp_path / "found.yaml"
    path.write_text(got.config("Planted attention."))
    text = path.read_text()
    assert text.startswith("# Planted attention.\n# The evidence supports 3 tiers")
    assert max(map(len, text.splitlines())) <= 110
    policy = run_config([f"policy={path}"]).policy
    assert isinstance(policy, TieredPolicy)
    layers = {name: tuple(span) for name, span in policy.boundaries(24).items()}
    assert layers == {tier.name: tuple(tier.layers) for tier in got.tiers}
    sensory, working, deep = policy.tiers.values()
    assert isinstance(sensory.scorer, Recency)
    assert sensory.scorer.k == pytest.approx(got.tiers[0].k, rel=0.01)
    assert sensory.scorer.k_drop == 0
    assert isinstance(working.scorer, Blend)
    assert working.scorer.weight == pytest.approx(got.tiers[1].recency, abs=0.01)
    assert isinstance(deep.scorer, GuidedAttention)
    assert isinstance(deep.merger, Summary)
    assert isinstance(sensory.merger, Drop)
    assert sum(policy.budgets(24)) == policy.budget * 24


@pytest.mark.parametrize("layers", [7, 10, 24, 28, 33, 64, 80])
def test_shares_give_back_the_layers(layers):
    """Whatever the boundaries, the written shares end each tier where it was found to end."""
    got = found(planted(8, 8, 4, [2, 5], 4, 0, 0.3), size=4, resamples=1)
    for inner in itertools.islice(itertools.combinations(range(1, layers), 2), 0, None, layers):
        edges = [0, *inner, layers]
        spans = [range(a, b) for a, b in itertools.pairwise(edges)]
        like = got.tiers[0]
        tiers = tuple(like._replace(name=f"t{i}", layers=span) for i, span in enumerate(spans))
        text = type(got)(tiers, (), 0.0, (), 1.0, 0.01).config()
        shares = [float(line.split()[1]) for line in text.splitlines() if "share:" in line]
        policy = TieredPolicy(tiers={f"t{i}": hermes.Tier(s, Recency()) for i, s in enumerate(shares)})
        assert list(policy.boundaries(layers).values()) == spans


@pytest.mark.model
@pytest.mark.parametrize(
    "kinds", [("recency", "mixed", "anchor"), ("none",), ("anchor", "recency", "anchor")]
)
def test_a_config_runs_on_the_embedded_model(tmp_path, kinds):
    from hermes.data.wanderer import Wanderer

    boundaries = [4, 14][: len(kinds) - 1]
    got = found(planted(24, 16, SIZE, boundaries, 4, 5, 0.3, kinds=kinds), resamples=1)
    path = tmp_path / "found.yaml"
    path.write_text(got.config())
    walk = Wanderer(streams=1, questions=1, seed=4)[0]
    with hermes.open_session("embedded", str(path), budget=48) as session:
        session.feed(walk.frames())
        answer = session.ask(walk.questions[0].text)
        held = [layer.video_length for layer in session.memory]
    assert answer.answer
    assert max(held) <= 2 * 48
    assert sum(held) <= 48 * len(held)


def test_segments_against_every_division():
    x = np.random.default_rng(0).normal(size=(12, 3)) + np.repeat([0.0, 4.0, 1.0], 4)[:, None]
    errors, best = segment(x, 4)
    for number in range(1, 5):
        every = {
            inner: float(((x - fitted(x, list(inner))) ** 2).sum())
            for inner in itertools.combinations(range(1, 12), number - 1)
        }
        slow = min(every, key=every.__getitem__)
        assert tuple(best[number - 1]) == slow
        assert errors[number - 1] == pytest.approx(every[slow])
    batch = segment(np.stack([x, x[::-1]]), 4)[0]
    assert np.allclose(batch[0], errors)
    assert np.allclose(batch[1], segment(x[::-1].copy(), 4)[0])


def test_long_segments_follow_a_line():
    x = np.stack([0.5 * np.arange(16.0), -np.arange(16.0)], axis=1)
    assert segment(x, 2)[0] == pytest.approx([0, 0], abs=1e-9)
    assert np.allclose(fitted(x, []), x)
    assert np.allclose(fitted(x, [3])[:3], x[:3].mean(0))


def test_the_test_of_structure_holds_its_level():
    """Layers of two clearly different kinds in random order, few of one: nothing normal about them."""
    p = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        kinds = random.permutation([5.0] * 3 + [0.0] * 17)[:, None] * [1, 0.5]
        p.append(structure_p(kinds + 0.2 * random.normal(size=(20, 2)), most=4, permutations=99, seed=seed))
    # Binomial of 200: above 20 has a probability of 0.1 % at a level of 5 %.
    assert np.mean(np.array(p) <= 0.05) <= 0.1
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.12)


def test_noise_adds_no_segments():
    count = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        mixing = random.normal(size=(3, 3))
        x = standardised(np.repeat([0.0, 30.0], 12)[:, None] + random.normal(size=(24, 3)) @ mixing)
        count += segments_supported(x, 5, 0.02, draws=199, seed=seed)[0] != 2
    # Two tests at half a per cent each; above 6 of 100 has a probability of less than 0.01 %.
    assert count <= 6


def test_measures_that_never_vary_do_not_matter():
    x = np.stack([np.repeat([0.0, 3.0], 8) + 0.1 * np.sin(np.arange(16)), np.ones(16)], axis=1)
    assert structure_p(x, 4) <= 0.01
    assert segments_supported(standardised(x), 4)[0] == 2
    assert structure_p(np.ones((16, 2)), 4) == 1


def test_few_layers_show_little():
    rows = [
        [LayerMeasures(0, mean_age=a, rhythm=0.1, gini=0.3, recency=0.5, k=9) for a in (0.1, 0.5, 0.5)]
    ] * 6
    got = discover(rows)
    assert (len(got.tiers), got.p) == (1, 1.0)
    assert got.config().count("share") == 1


def test_undefined_measures_are_left_out():
    attention = planted(24, 16, SIZE, [3, 16], 8, 0, 0.5)
    rows = [[one._replace(rhythm=math.nan) for one in row] for row in measured(attention)]
    assert features(rows).shape == (8, 24, 2)
    assert near(discover(rows), [3, 16])
    for wrong in ([], [[]], [rows[0], rows[1][:3]]):
        with pytest.raises(InputError, match="equal layers"):
            discover(wrong)


def test_the_planted_attention_is_what_it_says():
    attention = planted(3, 32, SIZE, [1, 2], 40, 0, 0.5)
    recency, mixed, anchor = (summarise([measure(row[i], SIZE) for row in attention]) for i in range(3))
    assert recency["recency"].mean == pytest.approx(0.8, abs=0.12)
    assert recency["rhythm"].mean == pytest.approx(0, abs=0.02)
    assert mixed["recency"].mean == pytest.approx(0.4, abs=0.1)
    assert mixed["rhythm"].mean > 0.2
    assert anchor["recency"].mean < 0.08
    assert anchor["anchor_share"].mean > 0.8
    assert 0.25 < anchor["prefix_share"].mean < 0.42
    assert all(layer.mass.sum() < 0.96 for row in attention for layer in row)
    again = planted(3, 32, SIZE, [1, 2], 40, 0, 0.5)
    assert np.array_equal(attention[7][1].mass, again[7][1].mass)


def test_shuffling_keeps_what_it_says():
    attention = planted(6, 8, 4, [1, 4], 3, 0, 0.5)
    order = [
        next(j for j in range(6) if np.array_equal(layer.mass, attention[0][j].mass))
        for layer in shuffled(attention, 1, tokens=False)[0]
    ]
    assert sorted(order) == list(range(6)) != order
    for row, before in zip(shuffled(attention, 1), attention, strict=True):
        for layer, source in zip(row, order, strict=True):
            assert np.array_equal(np.sort(layer.video.mass), np.sort(before[source].video.mass))
            assert np.array_equal(layer.mass[:8], before[source].mass[:8])
