"""Rhythm: does a layer's attention repeat from frame to frame, and after how many tokens?"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .mass import LayerMass

__all__ = ["Rhythm", "autocorrelation", "detrended", "rhythm", "spectrum", "whole"]

# Below this share of the mean mass a token counts as not looked at: it keeps logarithms finite.
_FLOOR = 1e-4
_LEVEL = 0.01
# Four standard deviations of a normal distribution, in median absolute deviations.
_FAR = 6.0


class Rhythm(NamedTuple):
    """The rhythm of one question in one layer.

    Attributes:
        strength: share of the variance of the detrended log-profile that the place in the frame explains,
            less what chance would explain; about 0 without a rhythm.
        period: tokens after which the profile repeats; NaN where none is claimed.
        spectral: share of its power at multiples of ``1 / period``, less what chance would put there; over
            the tokens of a frame where no period is claimed; NaN for a ragged memory.
        p: of the test that claims the period, times the number of lags tried.
    """

    strength: float
    period: float
    spectral: float
    p: float


def rhythm(layer: LayerMass, tokens_per_frame: int | None = None) -> Rhythm:
    """Strength and period of what repeats in the log-profile of one layer.

    Source: arXiv 2601.14724, Sec. 2 sees the period in a figure.

    With ``x`` the detrended log-mass (:func:`detrended`) of V video tokens in G groups,
    ``eta2 = sum_g n_g mean_g(x)^2 / sum x^2`` and ``strength = 1 - (1 - eta2) (V - 1) / (V - G)``.

    * The strength groups tokens by ``patch``, in every memory.
    * Where all frames are whole (:func:`whole`) index in the cache is place in the frame, and the period is
      sought freely: all lags from 2 tokens to two and a half frames that fit in three times. Tokens are
      grouped by index modulo the lag, which sums the autocorrelation at the lag's multiples. The lag with
      the largest ``(S - df) / sqrt(2 df)``, ``S = V eta2``, ``df = G - 1``, is claimed where a randomisation
      test passes at 1 % over the number of lags tried: blocks of that many tokens, each turned by a random
      number of tokens, would seldom be as aligned. Neighbouring tokens are alike without any rhythm, so ``x``
      is first whitened by its own correlation at lag 1; before that it is cut at six median absolute
      deviations. Where fewer than half of the tokens are looked at, none is claimed.
    * In a ragged memory an index is no place, and the one period that can be claimed is the tokens of a
      frame, by another randomisation test at 1 %: frames, each with its sign at random, would seldom agree
      as much.

    Neither test draws: the mean and variance that the randomisation would give are known, and its
    distribution is taken as a scaled chi-square with both.

    Args:
        layer: what one question looked at.
        tokens_per_frame: of the backbone; None takes that of the frames, if all are alike, else the places
            that are seen.

    Returns:
        all NaN with fewer than three frames, or fewer than two tokens a frame, or no mass.

    >>> frames, patches = np.divmod(np.arange(120), 6)
    >>> noise = np.random.default_rng(0).normal(size=120)
    >>> layer = LayerMass(np.exp(2.0 * (patches == 2) + noise), frames, 19.0 - frames, patches)
    >>> rhythm(layer).period
    6.0
    """
    layer = _placed(layer)
    count, size = len(layer.mass), tokens_per_frame or _frame_size(layer)
    held = len(np.unique(layer.frame))
    if size < 2 or held < 3 or not layer.mass.sum() > 0:
        return Rhythm(math.nan, math.nan, math.nan, math.nan)
    x = detrended(layer.mass, max(round(count / held), 3))
    groups = np.unique(layer.patch, return_inverse=True)[1]
    strength = _explained(x, groups)
    if not whole(layer, size):
        p = _flipped(x, np.unique(layer.frame, return_inverse=True)[1], groups)
        return Rhythm(strength, float(size) if p < _LEVEL else math.nan, math.nan, p)
    seen = layer.mass > _FLOOR * layer.mass.mean()
    period, p = _period(x, min(int(2.5 * size), count // 3)) if 2 * seen.sum() > count else (math.nan, 1.0)
    return Rhythm(strength, period, _spectral(x, size if math.isnan(period) else round(period)), p)


def whole(layer: LayerMass, tokens_per_frame: int) -> bool:
    """Are all tokens of each held frame there, in raster order?

    >>> frame, patch = np.divmod(np.arange(6), 3)
    >>> layer = LayerMass(np.ones(6), frame, 1.0 - frame, patch)
    >>> whole(layer, 3), whole(LayerMass(*(x[1:] for x in vars(layer).values())), 3)
    (True, False)
    """
    video = layer.video
    count = len(video.patch)
    in_order = np.array_equal(video.patch, np.arange(count) % tokens_per_frame)
    return count % tokens_per_frame == 0 and in_order and bool((np.diff(video.frame) >= 0).all())


def detrended(mass: Float[np.ndarray, " V"], width: int) -> Float[np.ndarray, " V"]:
    """Log-mass less its moving average over ``width`` tokens, with mean 0.

    A window of one frame takes out what changes slower than a frame, forgetting above all: its slope within
    each frame would otherwise look like a rhythm. Straight lines are taken out exactly, a pattern with the
    window's period not at all. Mass below 1e-4 of the mean counts as that much.

    Args:
        mass: of video tokens in the order they are held.
        width: of the window, tokens; the first and last half window are measured from a line through it.

    >>> float(abs(detrended(np.exp(np.arange(8.0)), 4)).max().round(9))
    0.0
    """
    x = np.log(np.maximum(mass, _FLOOR * mass.mean()))
    width = min(width, len(x))
    # An even window takes half of the token at either end, so that it has a middle.
    kernel = np.full(width, 1 / width) if width % 2 else np.convolve(np.ones(width), [0.5, 0.5]) / width
    half = len(kernel) // 2
    trend = np.empty_like(x)
    if len(x) >= len(kernel):
        trend[half : len(x) - half] = np.convolve(x, kernel, "valid")
    steps = np.arange(width)
    for end, at in ((x[:width], slice(None, half)), (x[-width:][::-1], slice(None, -half - 1, -1))):
        slope, level = np.polyfit(steps, end, 1)
        trend[at] = (level + slope * steps)[:half]
    y = x - trend
    centred: Float[np.ndarray, " V"] = y - y.mean()
    return centred


def autocorrelation(x: Float[np.ndarray, " V"]) -> Float[np.ndarray, " V"]:
    """``r(t) = sum_i x_i x_(i+t) / sum_i x_i^2`` at all lags; x has mean 0.

    >>> autocorrelation(np.array([1.0, -1.0, 1.0, -1.0])).round(2)
    array([ 1.  , -0.75,  0.5 , -0.25])
    """
    power = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
    lagged = np.fft.irfft(power, 2 * len(x))[: len(x)]
    out: Float[np.ndarray, " V"] = lagged / lagged[0] if lagged[0] > 0 else np.eye(1, len(x))[0]
    return out


def spectrum(x: Float[np.ndarray, " V"]) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, " F"]]:
    """Periods in tokens, longest first, and the share of the power of x at each; x has mean 0.

    >>> periods, power = spectrum(np.array([1.0, -1.0] * 4))
    >>> float(periods[power.argmax()]), float(power.max())
    (2.0, 1.0)
    """
    count = len(x)
    power = np.abs(np.fft.rfft(x)[1:]) ** 2
    # Every frequency but the highest of an even count stands for two.
    power[: (count - 1) // 2] *= 2
    total = power.sum()
    return count / np.arange(1, len(power) + 1), power / total if total > 0 else power


def _placed(layer: LayerMass) -> LayerMass:
    """Tokens that have a place in a frame: no text, no summary."""
    kept = (layer.frame >= 0) & (layer.patch >= 0)
    return LayerMass(layer.mass[kept], layer.frame[kept], layer.age[kept], layer.patch[kept])


def _frame_size(layer: LayerMass) -> int:
    """Tokens of a frame where all held frames have as many, else the places that are seen."""
    sizes = np.unique(layer.frame, return_counts=True)[1]
    alike = len(sizes) > 0 and sizes.min() == sizes.max()
    return int(sizes[0]) if alike else int(layer.patch.max(initial=-1)) + 1


def _explained(x: Float[np.ndarray, " V"], groups: Int[np.ndarray, " V"]) -> float:
    """Share of the variance that the groups explain, adjusted for their number."""
    sizes = np.bincount(groups)
    count, kinds, total = len(x), len(sizes), float(x @ x)
    if kinds < 2 or count <= kinds or total <= 0:
        return math.nan
    explained = float((np.bincount(groups, x) ** 2 / sizes).sum()) / total
    return 1 - (1 - explained) * (count - 1) / (count - kinds)


def _period(x: Float[np.ndarray, " V"], longest: int) -> tuple[float, float]:
    """The lag that repeats most and its p-value; NaN where it does not pass the test."""
    if longest < 2 or not (x @ x) > 0:
        return math.nan, math.nan
    # Two tokens far above all others would be a rhythm of their own.
    limit = _FAR * float(np.median(np.abs(x)))
    if limit > 0:
        x = np.clip(x, -limit, limit)
        x = x - x.mean()
    first = autocorrelation(x)[1]
    white = x[1:] - first * x[:-1]
    white = white - white.mean()
    r, count = autocorrelation(white), len(white)
    lags = np.arange(2, longest + 1)
    repeats = (count - 1) // lags
    # Every multiple of every lag, in one flat list.
    owner = np.repeat(np.arange(len(lags)), repeats)
    nth = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats) + 1
    explained = lags * (1 + 2 * np.bincount(owner, r[nth * lags[owner]]))
    best = int(((explained - lags + 1) / np.sqrt(2 * (lags - 1))).argmax())
    lag = int(lags[best])
    blocks = white[count % lag :].reshape(-1, lag)
    p = min(1.0, _turned(blocks) * len(lags))
    return (float(lag) if p < _LEVEL else math.nan), p


def _turned(blocks: Float[np.ndarray, "B T"]) -> float:
    """p-value that blocks are as aligned as if each were turned by a random number of tokens.

    The statistic is the power of their sum. Turning changes phases alone, so that its mean and variance
    follow from the power of each block; its distribution is taken as a scaled chi-square with both.
    """
    waves = np.fft.rfft(blocks, axis=1)[:, 1:]
    each = np.abs(waves) ** 2
    together, mean = np.abs(waves.sum(0)) ** 2, each.sum(0)
    spread = mean**2 - (each**2).sum(0)
    # All frequencies but the highest of an even period stand for two.
    times = np.full(len(mean), 2.0)
    if blocks.shape[1] % 2 == 0:
        times[-1] = 1.0
    return _tail(float(times @ together), float(times @ mean), float(2 * times @ spread))


def _flipped(x: Float[np.ndarray, " V"], frame: Int[np.ndarray, " V"], place: Int[np.ndarray, " V"]) -> float:
    """p-value that frames agree as much as if each had its sign at random; tokens may be missing."""
    rows = np.zeros((frame.max() + 1, place.max() + 1))
    rows[frame, place] = x
    squares = (rows**2).sum(1)
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    spread = float((gram**2).sum() - (squares**2).sum())
    return _tail(float((rows.sum(0) ** 2).sum()), float(squares.sum()), 2 * spread)


def _tail(value: float, mean: float, variance: float) -> float:
    """Upper tail of a scaled chi-square variable, by the approximation of Wilson and Hilferty (1931)."""
    if not variance > 0 or not mean > 0:
        return 1.0
    spread = variance / (9 * mean**2)
    return NormalDist().cdf(-((value / mean) ** (1 / 3) - 1 + spread) / math.sqrt(spread))


def _spectral(x: Float[np.ndarray, " V"], period: int) -> float:
    """Share of the power at multiples of 1 / period, less that of white noise."""
    cycles = len(x) // period
    y = x[len(x) - cycles * period :]
    power = spectrum(y - y.mean())[1]
    explained, lines = float(power[cycles - 1 :: cycles].sum()), period - 1
    return 1 - (1 - explained) * (len(y) - 1) / (len(y) - 1 - lines)
