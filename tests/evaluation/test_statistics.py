"""Intervals hold the truth as often as they say; quantiles and tests are those of SciPy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hermes.evaluation import Score
from hermes.evaluation.scoring.statistics import (
    bootstrap,
    clustered,
    clustered_difference,
    clustered_p,
    detectable,
    holm,
    mcnemar,
    t_quantile,
    t_tails,
    wilson,
)

RUNS = 2000


def simulated(videos: int, asked: int, accuracy: float, alike: float, seed: int, runs: int = RUNS):
    """Right answers [runs, videos] with this correlation between the answers to one video, and questions."""
    rng = np.random.default_rng(seed)
    weight = 1 / alike - 1
    shares = rng.beta(accuracy * weight, (1 - accuracy) * weight, (runs, videos))
    return rng.binomial(asked, shares), np.full(videos, asked)


def simulated_pairs(videos: int, asked: int, only: tuple[float, float], alike: float, seed: int, runs: int):
    """Questions that A alone and B alone has right, each [runs, videos], and questions."""
    rng = np.random.default_rng(seed)
    weights = np.array([*only, 1 - sum(only)]) * (1 / alike - 1)
    shares = rng.standard_gamma(weights, (runs, videos, 3))
    drawn = rng.multinomial(asked, shares / shares.sum(-1, keepdims=True))
    return drawn[..., 0], drawn[..., 1], np.full(videos, asked)


def covered(intervals, truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high, *_ in intervals]))


@pytest.mark.parametrize("accuracy", [0.5, 0.7, 0.9])
def test_the_clustered_interval_covers_and_the_naive_one_does_not(accuracy):
    right, asked = simulated(120, 5, accuracy, 0.3, seed=1)
    assert 0.93 <= covered((clustered(row, asked) for row in right), accuracy) <= 0.97
    assert covered((wilson(int(row.sum()), 600) for row in right), accuracy) < 0.86


@pytest.mark.parametrize(("videos", "asked", "alike"), [(22, 87, 0.1), (10, 146, 0.1), (10, 5, 0.3)])
@pytest.mark.parametrize("accuracy", [0.3, 0.6, 0.8])
def test_few_videos_are_covered_too(videos, asked, alike, accuracy):
    right, counts = simulated(videos, asked, accuracy, alike, seed=2)
    assert 0.93 <= covered((clustered(row, counts) for row in right), accuracy) <= 0.985


@pytest.mark.parametrize(("videos", "asked", "alike"), [(22, 87, 0.1), (10, 146, 0.3)])
@pytest.mark.parametrize("accuracy", [0.9, 0.97])
def test_an_interval_of_few_videos_that_misses_warns(videos, asked, alike, accuracy):
    right, counts = simulated(videos, asked, accuracy, alike, seed=3)
    found = [clustered(row, counts) for row in right]
    said = [low <= accuracy <= high or doubtful for low, high, doubtful in found]
    assert np.mean(said) > 0.92


def test_the_percentile_bootstrap_covers_many_videos_and_not_few():
    right, asked = simulated(120, 5, 0.6, 0.3, seed=4, runs=500)
    assert covered((bootstrap(row, asked, resamples=1000) for row in right), 0.6) > 0.92
    right, asked = simulated(10, 5, 0.9, 0.3, seed=4, runs=500)
    assert covered((bootstrap(row, asked, resamples=1000) for row in right), 0.9) < 0.92
    assert covered((clustered(row, asked) for row in right), 0.9) > 0.93


@pytest.mark.parametrize(
    ("videos", "asked", "only"), [(120, 5, (0.1, 0.15)), (22, 87, (0.06, 0.12)), (10, 146, (0.1, 0.1))]
)
def test_the_paired_interval_covers(videos, asked, only):
    a, b, counts = simulated_pairs(videos, asked, only, 0.1, seed=5, runs=1000)
    truth = only[1] - only[0]
    intervals = [clustered_difference(*pair, counts) for pair in zip(a, b, strict=True)]
    assert 0.93 <= covered(intervals, truth) <= 0.98
    if videos > 100:
        drawn = [bootstrap(d, counts, resamples=1000) for d in (b - a)[:400]]
        assert covered(drawn, truth) > 0.92


def test_what_is_detectable_is_found_four_times_in_five():
    a, b, counts = simulated_pairs(120, 5, (0.1, 0.1), 0.2, seed=6, runs=200)
    least = float(np.median([detectable(*pair, counts) for pair in zip(a, b, strict=True)]))
    a, b, counts = simulated_pairs(120, 5, (0.1 - least / 2, 0.1 + least / 2), 0.2, seed=7, runs=1000)
    found = [clustered_difference(*pair, counts).low > 0 for pair in zip(a, b, strict=True)]
    assert 0.75 < np.mean(found) < 0.85


def test_one_question_a_video_is_wilson():
    right = np.array([1] * 61 + [0] * 39)
    low, high, doubtful = clustered(right, np.ones(100, int))
    assert (low, high) == pytest.approx(wilson(61, 100), abs=0.003)
    assert not doubtful
    assert Score(61, 100, None, tuple((int(x), 1) for x in right)).method == "wilson"
    assert Score(61, 100, None, ((31, 50), (30, 50))).method == "clustered"


def test_answers_that_are_all_alike():
    # One question a video would tell as much.
    low, high, doubtful = clustered(np.full(12, 5), np.full(12, 5))
    assert high == 1
    assert low < wilson(12, 12)[0]
    assert doubtful
    assert clustered(np.array([3]), np.array([5])) == (0, 1, True)
    assert clustered_difference(np.array([3]), np.array([0]), np.array([5])) == (-1, 1, True)
    assert detectable(np.array([3]), np.array([0]), np.array([5])) == math.inf


def test_the_same_answers_are_not_the_same_runs():
    none, asked = np.zeros(40, int), np.full(40, 5)
    low, high, _ = clustered_difference(none, none, asked)
    assert low < -0.01 < 0.01 < high
    assert 0.01 < detectable(none, none, asked) < 0.05


def test_the_bootstrap_follows_its_seed():
    right, asked = (part[0] if part.ndim > 1 else part for part in simulated(30, 5, 0.6, 0.3, 8, runs=1))
    assert bootstrap(right, asked) == bootstrap(right, asked)
    assert bootstrap(right, asked, seed=1) != bootstrap(right, asked)
    order = np.random.default_rng(0).permutation(30)
    assert bootstrap(right[order], asked[order]) == bootstrap(right, asked)


def test_t_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 1.6, 2, 5.5, 9, 21, 99.5, 119, 1e4, 1e7):
        for share in (0.005, 0.025, 0.2, 0.8, 0.975, 0.995):
            assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-4)


def test_tails_of_t_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1.6, 9, 59, 119, 1e7):
        for t in (0.0, 0.3, 1.96, 3.5, 5.0):
            assert t_tails(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=2e-3, abs=1e-6)


def test_p_is_below_a_level_where_the_interval_leaves_out_zero():
    rng = np.random.default_rng(4)
    told = set()
    for _ in range(60):
        a, b = rng.binomial(5, 0.1, 20), rng.binomial(5, 0.2, 20)
        asked = np.full(20, 10)
        interval = clustered_difference(a, b, asked)
        outside = interval.low > 0 or interval.high < 0
        assert (clustered_p(a, b, asked) < 0.05) == outside
        told.add(outside)
    assert told == {True, False}


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(3).uniform(size=30) ** 3
    assert holm(p.tolist()) == pytest.approx(multitest.multipletests(p, method="holm")[1].tolist())


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 7), (250, 300), (10, 10)])
def test_wilson_is_that_of_statsmodels(right, n):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    assert wilson(right, n) == pytest.approx(
        proportion.proportion_confint(right, n, method="wilson"), abs=1e-9
    )


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 7), (7, 1), (30, 31), (400, 500), (0, 2000)])
def test_mcnemar_is_that_of_statsmodels(a, b):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    wanted = tables.mcnemar([[5, a], [b, 5]], exact=True).pvalue if a + b else 1.0
    assert mcnemar(a, b) == pytest.approx(wanted, rel=1e-9)


def test_the_variance_is_the_cluster_robust_one_of_statsmodels():
    api = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(9)
    asked = np.full(14, 6)
    right = rng.binomial(asked, rng.beta(2, 1, 14))
    answers = np.concatenate([np.arange(6) < count for count in right]).astype(float)
    video = np.repeat(np.arange(14), 6)
    fit = api.OLS(answers, np.ones(84)).fit(
        cov_type="cluster", cov_kwds={"groups": video, "use_correction": False}
    )
    # Videos with as many questions each: CR2 is the plain sandwich times G / (G - 1).
    error = float(fit.bse[0]) * math.sqrt(14 / 13)
    share = right.sum() / 84
    effective = share * (1 - share) / error**2
    t = t_quantile(0.975, 13)
    for end in clustered(right, asked)[:2]:
        assert abs(share - end) == pytest.approx(t * math.sqrt(end * (1 - end) / effective), rel=1e-6)


def test_the_detectable_difference_is_that_of_a_paired_t_test():
    power = pytest.importorskip("statsmodels.stats.power")
    rng = np.random.default_rng(10)
    a, b, asked = rng.binomial(20, 0.1, 40), rng.binomial(20, 0.1, 40), np.full(40, 20)
    spread = ((b - a) / 20).std(ddof=1)
    wanted = power.TTestPower().solve_power(nobs=40, alpha=0.05, power=0.8) * spread
    assert detectable(a, b, asked) == pytest.approx(wanted, rel=0.02)


def test_degrees_of_freedom_shrink_with_uneven_videos():
    even = clustered_difference(np.zeros(12, int), np.array([0, 4] * 6), np.full(12, 20))
    uneven = clustered_difference(np.zeros(12, int), np.array([0, 4] * 6), np.array([90] * 2 + [6] * 10))
    assert uneven.high - uneven.low > even.high - even.low
