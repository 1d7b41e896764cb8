"""What one layer looked at, in numbers: per question, and over questions."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .forgetting import forgetting
from .mass import LayerMass
from .rhythm import rhythm

__all__ = [
    "Anchors",
    "Estimate",
    "LayerMeasures",
    "Verdict",
    "anchors",
    "estimate",
    "measure",
    "peaks",
    "period_verdict",
    "sensitivity",
    "summarise",
]

# An exponential that accounts for less of the mass than this has no rate worth telling.
_LEAST_SHARE = 0.05


class LayerMeasures(NamedTuple):
    """One question in one layer. ``m`` is the mass of V video tokens, ``p = m / sum m``, oldest first.

    Source: arXiv 2601.14724, Sec. 2 tells recency and anchors from figures. Everything but ``prefix_share``
    is over video tokens alone; NaN where undefined.

    Attributes:
        prefix_share: mass on the prefix and other text, over all mass on the memory (the sink).
        newest_share: ``sum p_i`` over tokens of the newest frame held.
        mean_age: ``sum p_i a_i`` with relative age ``a_i = (V-1-i) / (V-1)``; 0.5 without recency.
        entropy: ``-sum p_i log2 p_i``, bits.
        effective_tokens: ``2 ** entropy``, tokens.
        gini: ``sum_i (2 i - V - 1) p_(i) / V`` over p in ascending order: 0 when even, near 1 on one token.
        recency: share of the mass that the exponential of :func:`hermes.analysis.forgetting.forgetting`
            explains.
        k: its rate by relative age, as in ``policy.tiers.NAME.scorer.k``; NaN where ``recency`` is below 5 %.
        rhythm: strength, see :func:`hermes.analysis.rhythm.rhythm`.
        rhythm_spectrum: the same from the spectrum.
        period: tokens, NaN where none is claimed.
        anchor_patch: the most frequent place of a frame's peak.
        anchor_share: share of frames that have their peak there.
    """

    prefix_share: float
    newest_share: float = math.nan
    mean_age: float = math.nan
    entropy: float = math.nan
    effective_tokens: float = math.nan
    gini: float = math.nan
    recency: float = math.nan
    k: float = math.nan
    rhythm: float = math.nan
    rhythm_spectrum: float = math.nan
    period: float = math.nan
    anchor_patch: float = math.nan
    anchor_share: float = math.nan


class Estimate(NamedTuple):
    """A mean over questions with its interval.

    Attributes:
        mean, low, high: of the questions in which the measure is defined; NaN where it is in none.
        questions: how many these are.
    """

    mean: float
    low: float
    high: float
    questions: int


class Verdict(NamedTuple):
    """Whether a layer has a rhythm, over questions.

    Attributes:
        claimed: share of the questions that claim the period claimed most often.
        period: that period; NaN unless it is claimed more often than chance would.
        is_frame: that period is the tokens of a frame.
    """

    claimed: float
    period: float
    is_frame: bool


class Anchors(NamedTuple):
    """Which place of the frame a layer looks at, and how stable that is.

    Attributes:
        patch: the place that is most often the peak of a frame; -1 without frames.
        over_frames: mean over questions of the share of frames with their peak at the question's own place.
        over_questions: share of the questions whose own place is ``patch``.
        agreement: mean Spearman correlation of the log-mass by place, between questions of one group;
            NaN without two questions in any.
    """

    patch: int
    over_frames: float
    over_questions: float
    agreement: float


def measure(layer: LayerMass, tokens_per_frame: int | None = None) -> LayerMeasures:
    """All measures of one question in one layer.

    Each formula is with its field in :class:`LayerMeasures`.

    Args:
        layer: what the question looked at.
        tokens_per_frame: of the backbone; None takes it from the frames.

    >>> frame, patch = np.divmod(np.arange(12), 3)
    >>> found = measure(LayerMass(np.full(12, 1 / 12), frame, 3.0 - frame, patch))
    >>> round(found.newest_share, 3), round(found.effective_tokens, 3), round(found.mean_age, 3)
    (0.25, 12.0, 0.5)
    """
    video = layer.video
    total, count = float(video.mass.sum()), len(video.mass)
    everything = float(layer.mass.sum())
    prefix = 1 - total / everything if everything > 0 else math.nan
    if count < 2 or not total > 0:
        return LayerMeasures(prefix)
    p = video.mass / total
    entropy = -float((p[p > 0] * np.log2(p[p > 0])).sum())
    rank = 2 * np.arange(1, count + 1) - count - 1
    fit = forgetting(video.mass, len(np.unique(video.frame)))
    beat = rhythm(video, tokens_per_frame)
    patch, share = _modal(peaks(video))
    return LayerMeasures(
        prefix_share=prefix,
        newest_share=float(p[video.frame == video.frame.max()].sum()),
        mean_age=float(p @ np.arange(count - 1, -1, -1)) / (count - 1),
        entropy=entropy,
        effective_tokens=2**entropy,
        gini=float(rank @ np.sort(p)) / count,
        recency=fit.share,
        k=fit.k if fit.share >= _LEAST_SHARE else math.nan,
        rhythm=beat.strength,
        rhythm_spectrum=beat.spectral,
        period=beat.period,
        anchor_patch=float(patch) if patch >= 0 else math.nan,
        anchor_share=share,
    )


def peaks(layer: LayerMass) -> Int[np.ndarray, " F"]:
    """The place of each frame's largest mass, for frames of which two or more tokens are held.

    >>> frame = np.array([0, 0, 1, 1, 2])
    >>> peaks(LayerMass(np.array([1, 2, 4, 3, 9.0]), frame, 2.0 - frame, np.array([0, 1, 0, 1, 0])))
    array([1, 0])
    """
    kept = (layer.frame >= 0) & (layer.patch >= 0)
    frame, mass, patch = layer.frame[kept], layer.mass[kept], layer.patch[kept]
    order = np.lexsort((-mass, frame))
    _, first, sizes = np.unique(frame[order], return_index=True, return_counts=True)
    out: Int[np.ndarray, " F"] = patch[order][first[sizes > 1]]
    return out


def summarise(
    measures: Sequence[LayerMeasures],
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Mean and interval over questions of every measure that has a mean: all but period and anchor patch.

    See :func:`estimate`. ``k`` is averaged as a logarithm.

    Args:
        measures: of one layer, one a question.
        groups: the video of each question; None takes questions as independent.
        level: confidence.
        resamples: of the bootstrap.
        seed: of its draws.

    >>> found = summarise([LayerMeasures(0.2, k=10.0), LayerMeasures(0.4, k=40.0)])
    >>> round(found["prefix_share"].mean, 2), round(found["k"].mean, 2)
    (0.3, 20.0)
    """
    out = {}
    for name in LayerMeasures._fields:
        if name not in ("period", "anchor_patch"):
            values = np.array([getattr(one, name) for one in measures], dtype=float)
            found = estimate(np.log(values) if name == "k" else values, groups, level, resamples, seed)
            if name == "k":
                mean, low, high, count = found
                found = Estimate(math.exp(mean), math.exp(low), math.exp(high), count)
            out[name] = found
    return out


def estimate(
    values: Float[np.ndarray, " Q"],
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Mean over questions and its bootstrap interval; questions of one video are drawn together.

    Percentiles, expanded for few groups (Hesterberg, The American Statistician 69, 2015): as if by the t
    distribution, and by ``sqrt(G / (G - 1))``.

    Args:
        values: one a question; NaN where undefined, which is left out.
        groups: the video of each question; None takes questions as independent.
        level: confidence.
        resamples: of the bootstrap.
        seed: of its draws.

    >>> found = estimate(np.array([1.0, 2.0, 3.0, np.nan]))
    >>> found.mean, found.questions, found.low < 1.5 < 2.5 < found.high
    (2.0, 3, True)
    """
    kept = ~np.isnan(values)
    labels = range(len(values)) if groups is None else groups
    names: dict[Hashable, int] = {}
    index = np.array([names.setdefault(name, len(names)) for name in labels])[kept]
    values = values[kept]
    if len(values) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    index = np.unique(index, return_inverse=True)[1]
    sums, counts = np.bincount(index, values), np.bincount(index)
    mean, videos = float(values.mean()), len(counts)
    if videos < 2:
        return Estimate(mean, math.nan, math.nan, len(values))
    drawn = np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=resamples)
    found = (drawn @ sums) / (drawn @ counts)
    z = NormalDist().inv_cdf((1 + level) / 2)
    # Cornish-Fisher's first term, which brings the normal quantile to that of Student's t.
    widen = math.sqrt(videos / (videos - 1)) * (1 + (z * z + 1) / (4 * (videos - 1)))
    low, high = mean + widen * (np.quantile(found, [(1 - level) / 2, (1 + level) / 2]) - mean)
    return Estimate(mean, float(low), float(high), len(values))


def period_verdict(
    measures: Sequence[LayerMeasures], tokens_per_frame: int, groups: Sequence[Hashable] | None = None
) -> Verdict:
    """Whether a layer has a rhythm, and whether it is that of frames.

    The period claimed most often is that of the layer if chance would claim any so often with a probability
    below 0.1 %: a question claims one by chance with 1 %, and the G groups count as G trials however many
    questions they have, so the number of successes is the sum over groups of the share of questions that
    claim it, rounded down.

    Args:
        measures: of one layer, one a question.
        tokens_per_frame: of the backbone.
        groups: the video of each question; None takes questions as independent.

    >>> period_verdict([LayerMeasures(0, rhythm=0.5, period=4.0)] * 3 + [LayerMeasures(0, rhythm=0.1)], 4)
    Verdict(claimed=0.75, period=4.0, is_frame=True)
    """
    labels = range(len(measures)) if groups is None else groups
    tested = [(label, one) for label, one in zip(labels, measures, strict=True) if not math.isnan(one.rhythm)]
    counts = Counter(one.period for _, one in tested if not math.isnan(one.period))
    if not counts:
        return Verdict(0.0 if tested else math.nan, math.nan, False)
    # The shortest of equally frequent ones, so that the order of questions does not matter.
    period, found = min(counts.items(), key=lambda item: (-item[1], item[0]))
    sizes = Counter(label for label, _ in tested)
    successes = math.floor(sum(1 / sizes[label] for label, one in tested if one.period == period) + 1e-9)
    trials = len(sizes)
    less = sum(math.comb(trials, n) * 0.01**n * 0.99 ** (trials - n) for n in range(successes))
    if 1 - less > 0.001:
        return Verdict(found / len(tested), math.nan, False)
    return Verdict(found / len(tested), period, period == tokens_per_frame)


def anchors(layers: Sequence[LayerMass], groups: Sequence[Hashable] | None = None) -> Anchors:
    """Where the peaks of a layer's frames are, and how stable over frames and questions.

    Source: arXiv 2601.14724, Sec. 2 calls the peaks anchors.

    Args:
        layers: one layer, one a question.
        groups: the video of each question; None takes all as of one.

    >>> frame, patch = np.divmod(np.arange(12), 4)
    >>> layer = LayerMass(1.0 + (patch == 2), frame, 2.0 - frame, patch)
    >>> anchors([layer, layer])
    Anchors(patch=2, over_frames=1.0, over_questions=1.0, agreement=1.0)
    """
    modal = [_modal(peaks(layer)) for layer in layers]
    found = [(patch, share) for patch, share in modal if patch >= 0]
    if not found:
        return Anchors(-1, math.nan, math.nan, math.nan)
    patch, over_questions = _modal(np.array([patch for patch, _ in found]))
    labels = [0] * len(layers) if groups is None else groups
    profiles = [_by_place(layer) for layer in layers]
    agreement = [_spearman(profiles[i], profiles[j]) for i, j in _pairs(labels)]
    return Anchors(patch, float(np.mean([share for _, share in found])), over_questions, _mean(agreement))


def sensitivity(layers: Sequence[LayerMass], groups: Sequence[Hashable] | None = None) -> float:
    """How much the question matters: mean Jensen-Shannon divergence between questions on one memory, bits.

    ``JSD(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2`` of the normalised masses of video tokens; 0 where the
    question does not matter, 1 where two questions share no token.

    Args:
        layers: one layer, one a question.
        groups: the memory of each question; None takes all as of one. Pairs with other tokens are left out.

    Returns:
        NaN where no two questions saw the same tokens.

    >>> frame = patch = np.zeros(2, int)
    >>> one, other = (LayerMass(np.array(m), frame, 1.0 * frame, patch) for m in ([1.0, 0.0], [0.0, 1.0]))
    >>> sensitivity([one, other]), sensitivity([one, one])
    (1.0, 0.0)
    """
    labels = [0] * len(layers) if groups is None else groups
    videos = [layer.video for layer in layers]
    found = []
    for i, j in _pairs(labels):
        a, b = videos[i], videos[j]
        if np.array_equal(a.frame, b.frame) and np.array_equal(a.patch, b.patch):
            p, q = (x.mass / x.mass.sum() if x.mass.sum() > 0 else x.mass for x in (a, b))
            found.append(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)
    return _mean(found)


def _pairs(labels: Sequence[Hashable]) -> list[tuple[int, int]]:
    return [(i, j) for i, j in itertools.combinations(range(len(labels)), 2) if labels[i] == labels[j]]


def _mean(values: list[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan


def _entropy(p: Float[np.ndarray, " V"]) -> float:
    p = p[p > 0]
    return -float((p * np.log2(p)).sum())


def _modal(places: Int[np.ndarray, " F"]) -> tuple[int, float]:
    """The most frequent place, the first of equals, and its share."""
    if len(places) == 0:
        return -1, math.nan
    counts = np.bincount(places)
    return int(counts.argmax()), float(counts.max() / len(places))


def _by_place(layer: LayerMass) -> dict[int, float]:
    """Mean log-mass of each place in the frame."""
    kept = (layer.frame >= 0) & (layer.patch >= 0) & (layer.mass > 0)
    places, index = np.unique(layer.patch[kept], return_inverse=True)
    means = np.bincount(index, np.log(layer.mass[kept])) / np.bincount(index)
    return dict(zip(places.tolist(), means.tolist(), strict=True))


def _spearman(a: dict[int, float], b: dict[int, float]) -> float:
    """Rank correlation over the places that both have."""
    both = sorted(set(a) & set(b))
    if len(both) < 2:
        return math.nan
    x, y = (_ranks(np.array([values[place] for place in both])) for values in (a, b))
    spread = math.sqrt(float(x @ x) * float(y @ y))
    return round(float(x @ y) / spread, 12) if spread > 0 else math.nan


def _ranks(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Ranks, equal values sharing theirs, less their mean."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
    centred: Float[np.ndarray, " N"] = ranks - ranks.mean()
    return centred
