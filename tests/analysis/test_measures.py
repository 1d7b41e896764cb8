"""Measures against attention whose answers are known, and against slow implementations of their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hermes.analysis.forgetting import forgetting
from hermes.analysis.mass import LayerMass
from hermes.analysis.measures import (
    LayerMeasures,
    anchors,
    estimate,
    measure,
    peaks,
    period_verdict,
    sensitivity,
    summarise,
)
from hermes.analysis.rhythm import autocorrelation, detrended, rhythm, spectrum, whole

pytestmark = pytest.mark.unit


def layer(mass, tokens_per_frame, prefix=()):
    """Whole frames, one a second, after a prefix."""
    count, text = len(mass), np.full(len(prefix), -1)
    frame, patch = np.divmod(np.arange(count), tokens_per_frame)
    newest = count // tokens_per_frame - 1
    age = np.concatenate([np.full(len(prefix), newest + 1.0), newest - frame.astype(float)])
    mass = np.concatenate([np.asarray(prefix, float), np.asarray(mass, float)])
    return LayerMass(mass, np.concatenate([text, frame]), age, np.concatenate([text, patch]))


def kept(one, chosen):
    return LayerMass(one.mass[chosen], one.frame[chosen], one.age[chosen], one.patch[chosen])


def noisy(count, seed, scale=1.0):
    return np.exp(scale * np.random.default_rng(seed).normal(size=count))


def anchored(frames, size, place, seed, height=3.0):
    return noisy(frames * size, seed) * np.where(
        np.arange(frames * size) % size == place, np.exp(height), 1.0
    )


def test_even_attention():
    found = measure(layer(np.full(40, 0.01), 4, prefix=[0.1, 0.5]), 4)
    assert found.prefix_share == pytest.approx(0.6)
    assert found.newest_share == pytest.approx(0.1)
    assert found.mean_age == pytest.approx(0.5)
    assert found.entropy == pytest.approx(math.log2(40))
    assert found.effective_tokens == pytest.approx(40)
    assert found.gini == pytest.approx(0, abs=1e-12)
    assert found.recency == pytest.approx(0, abs=1e-3)
    assert math.isnan(found.k)
    assert math.isnan(found.period)


def test_all_on_one_token():
    found = measure(layer(np.eye(1, 40, 39)[0], 4), 4)
    assert (found.newest_share, found.mean_age, found.entropy) == (1, 0, 0)
    assert found.effective_tokens == 1
    assert found.gini == pytest.approx(39 / 40)


def test_sparsity_follows_its_formulas():
    mass = noisy(60, 3)
    found, p = measure(layer(mass, 6), 6), mass / mass.sum()
    assert found.gini == pytest.approx(np.abs(p[:, None] - p).sum() / (2 * 60 * p.sum()))
    assert found.entropy == pytest.approx(-sum(x * math.log2(x) for x in p))
    assert found.mean_age == pytest.approx(sum(x * (59 - i) / 59 for i, x in enumerate(p)))


@pytest.mark.parametrize("k", [4.0, 8.0, 20.0, 60.0])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(("frames", "size"), [(16, 4), (30, 196)])
def test_forgetting_without_noise(k, share, frames, size):
    count = frames * size
    decay = np.exp(-k * np.linspace(1, 0, count))
    found = forgetting(share * decay / decay.sum() + (1 - share) / count, frames)
    assert found.k == pytest.approx(k, rel=0.02)
    assert found.share == pytest.approx(share, abs=0.01)


def test_forgetting_with_noise_and_anchors():
    count, size = 64 * 16, 16
    decay = np.exp(-20 * np.linspace(1, 0, count))
    pattern = np.where(np.arange(count) % size == 3, 20.0, 1.0)
    mass = 0.6 * decay / decay.sum() + 0.4 * pattern / pattern.sum()
    found = [measure(layer(mass * noisy(count, seed), size), size) for seed in range(30)]
    means = summarise(found)
    assert means["recency"].mean == pytest.approx(0.6, abs=0.05)
    assert means["k"].mean == pytest.approx(20, rel=0.1)
    assert means["k"].low < 20 < means["k"].high


def test_rhythm_of_anchors():
    for frames, size in [(16, 16), (64, 4), (12, 49), (30, 7)]:
        found = measure(layer(anchored(frames, size, 2, seed=frames), size), size)
        assert found.period == size
        assert found.anchor_patch == 2
        assert found.anchor_share > 0.7
        assert found.rhythm == pytest.approx(found.rhythm_spectrum, abs=0.02)


def test_rhythm_strength_is_the_share_of_variance():
    # Variance of one in 16 at height h: h^2 (1/16)(15/16), over that and the noise's 1.
    signal = 9 * 15 / 256
    found = [rhythm(layer(anchored(64, 16, 5, seed), 16)).strength for seed in range(10)]
    # The moving average takes a sixteenth of the noise with it.
    assert np.mean(found) == pytest.approx(signal / (signal + 15 / 16), abs=0.03)


def test_a_period_that_is_not_the_frames():
    mass = noisy(30 * 28, 1) * np.where(np.arange(30 * 28) % 7 == 3, 30.0, 1.0)
    found = [measure(layer(mass, 28), 28)]
    assert found[0].period == 7
    assert not period_verdict(found * 3, 28).is_frame
    assert period_verdict(found * 3, 28).period == 7


def test_forgetting_is_no_rhythm():
    # Within each frame the newest tokens have most mass: a saw-tooth, unless forgetting is taken out.
    for size in (4, 16):
        mass = 0.2 / (16 * size) + np.exp(-20 * np.linspace(1, 0, 16 * size))
        found = [rhythm(layer(mass * noisy(16 * size, seed, 0.3), size)) for seed in range(40)]
        assert sum(not math.isnan(one.period) for one in found) <= 2
        assert abs(np.mean([one.strength for one in found])) < 0.04


NOISES = {
    "normal": lambda random, count: random.normal(size=count),
    "heavy": lambda random, count: random.laplace(size=count),
    "alike neighbours": lambda random, count: np.convolve(
        random.normal(size=count + 30), 0.6 ** np.arange(31), "valid"
    ),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("frames", "size"), [(48, 4), (16, 16)])
def test_periods_are_claimed_of_noise_at_the_stated_level(noise, frames, size):
    claimed = {"index": 0, "patch": 0}
    for seed in range(300):
        random = np.random.default_rng(seed)
        one = layer(np.exp(NOISES[noise](random, frames * size)), size)
        claimed["index"] += not math.isnan(rhythm(one, size).period)
        held = kept(one, random.random(frames * size) < 0.7)
        claimed["patch"] += not math.isnan(rhythm(held, size).period)
    # 1 % of 300 is 3; 10 or more has a probability of 0.1 %.
    assert max(claimed.values()) < 10, claimed


def test_ragged_memories_are_read_by_provenance():
    size, frames = 12, 40
    full = layer(anchored(frames, size, 7, seed=0), size)
    held = kept(full, np.sort(np.random.default_rng(0).permutation(frames * size)[: frames * size // 2]))
    assert whole(full, size)
    assert not whole(held, size)
    found = measure(held, size)
    assert found.period == size
    assert math.isnan(found.rhythm_spectrum)
    assert found.anchor_patch == 7
    assert found.rhythm == pytest.approx(measure(full, size).rhythm, abs=0.2)
    # By index alone the same memory has no period.
    as_if_whole = layer(held.mass, size)
    assert math.isnan(rhythm(as_if_whole, size).period)


def test_detrending_leaves_a_frames_pattern_and_no_line():
    pattern = np.tile([2.0, 0, 0, 0, 1], 9)
    line = 0.05 * np.arange(45)
    middle = slice(3, -3)
    found = detrended(np.exp(pattern + line), 5)
    assert np.allclose(found[middle] - found[middle].mean(), (pattern - pattern.mean())[middle], atol=0.02)


def test_autocorrelation_and_spectrum_against_their_sums():
    x = np.random.default_rng(0).normal(size=30)
    x -= x.mean()
    slow = [sum(x[i] * x[i + lag] for i in range(30 - lag)) / (x @ x) for lag in range(30)]
    assert np.allclose(autocorrelation(x), slow)
    periods, power = spectrum(x)
    assert power.sum() == pytest.approx(1)
    wave = sum(x[i] * np.exp(-2j * np.pi * i / periods[4]) for i in range(30))
    assert power[4] == pytest.approx(2 * abs(wave) ** 2 / 30 / (x @ x))


def test_verdicts_need_more_than_chance():
    none, four = LayerMeasures(0, rhythm=0.0), LayerMeasures(0, rhythm=0.5, period=4.0)
    assert math.isnan(period_verdict([four] + [none] * 19, 4).period)
    found = period_verdict([four] * 6 + [none] * 14, 4)
    assert found == (0.3, 4.0, True)
    # Six questions of one video are one success at most.
    assert math.isnan(period_verdict([four] * 6 + [none] * 14, 4, [0] * 6 + list(range(1, 15))).period)
    assert math.isnan(period_verdict([LayerMeasures(0)], 4).claimed)


def test_anchors_over_questions_of_videos():
    steady = [layer(anchored(20, 9, 4, seed), 9) for seed in range(4)]
    found = anchors(steady)
    assert (found.patch, found.over_questions) == (4, 1)
    assert found.over_frames > 0.7
    noise = [layer(noisy(180, seed), 9) for seed in range(8)]
    assert abs(anchors(noise).agreement) < 0.35
    assert anchors(noise).over_frames < 0.4
    # Questions of one group see the same content, those of different groups do not count.
    content = [noisy(180, seed) for seed in (50, 51)]
    pairs = [layer(content[q % 2] * noisy(180, q, 0.1), 9) for q in range(4)]
    assert anchors(pairs, [0, 1, 0, 1]).agreement > 0.8
    assert math.isnan(anchors(pairs, [0, 1, 2, 3]).agreement)


def test_peaks_leave_out_text_and_lone_tokens():
    one = layer([1, 2, 3, 9, 1, 1], 3, prefix=[50.0])
    assert peaks(one).tolist() == [2, 0]
    assert peaks(kept(one, np.array([0, 1, 2, 4]))).tolist() == [1]


def test_sensitivity_is_the_jensen_shannon_divergence():
    a, b = noisy(12, 0), noisy(12, 1)
    p, q = a / a.sum(), b / b.sum()
    m = (p + q) / 2
    expected = sum(0.5 * x * math.log2(x / y) for r in (p, q) for x, y in zip(r, m, strict=True))
    layers = [layer(a, 4, prefix=[0.3]), layer(2 * b, 4, prefix=[0.9])]
    assert sensitivity(layers) == pytest.approx(expected)
    # Another memory cannot be compared, nor another video.
    assert math.isnan(sensitivity([layers[0], layer(a[:8], 4)]))
    assert math.isnan(sensitivity(layers, ["a", "b"]))


def test_intervals_hold_the_truth():
    held = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        video = np.repeat(random.normal(size=12), 5)
        found = estimate(video + random.normal(size=60), list(np.repeat(range(12), 5)), resamples=400)
        held += found.low <= 0 <= found.high
    assert 0.91 <= held / 300 <= 0.99


def test_intervals_know_that_questions_of_a_video_are_alike():
    values = np.repeat(np.random.default_rng(0).normal(size=10), 10)
    alike = estimate(values, list(np.repeat(range(10), 10)))
    apart = estimate(values)
    assert alike.high - alike.low > 2 * (apart.high - apart.low)
    assert math.isnan(estimate(values, [0] * 100).low)
    assert math.isnan(estimate(np.full(3, math.nan)).mean)


def test_memories_with_nothing_to_measure():
    one = layer(np.full(4, 0.1), 4, prefix=[0.2])
    for empty in (kept(one, one.frame < 0), kept(one, np.zeros(5, bool)), layer(np.zeros(8), 4)):
        found = measure(empty, 4)
        assert math.isnan(found.entropy)
        assert math.isnan(found.rhythm)
    assert math.isnan(measure(one, 4).rhythm)
    assert anchors([kept(one, one.frame < 0)]).patch == -1
    summary = LayerMass(np.array([1.0, 2]), np.zeros(2, int), np.zeros(2), np.array([-1, 0]))
    assert math.isnan(measure(summary, 4).rhythm)
