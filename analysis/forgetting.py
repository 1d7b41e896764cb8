"""How fast a layer forgets: an exponential in relative age on top of an even floor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Forgetting", "forgetting"]

_BINS, _LEAST_K = 64, 3.0


class Forgetting(NamedTuple):
    """The fit of one question in one layer.

    Attributes:
        k: forgetting rate by relative age, as in ``policy.tiers.NAME.scorer.k``.
        share: share of the video mass that the exponential accounts for; the rest is the even floor.
    """

    k: float
    share: float


def forgetting(mass: Float[np.ndarray, " V"], frames: int) -> Forgetting:
    """Fit ``p_i = (1 - share) / V + share exp(-k a_i) / Z`` to the normalised mass of V video tokens.

    Source: the exponential is that of arXiv 2601.14724, Sec. 3.1. Relative age ``a_i`` is
    ``(V - 1 - i) / (V - 1)`` by index in the cache, as in the scorer, so that ``k`` means the same. The floor
    belongs to the model: without one, k of a layer with a recent peak and mass everywhere would tell only how
    much floor there is. The fit maximises ``sum_i p_i log q_i``, so q is the distribution nearest to p in
    Kullback-Leibler divergence; it needs no logarithm of a mass, and peaks that recur at every age, such as
    anchors, weigh on the floor alone. ``k`` is sought from 3, as slower forgetting can hardly be told from a
    floor, to four times the number of frames, as faster would be within a frame; it is found to 1 %.

    Args:
        mass: of video tokens, oldest first; at least two, not all zero.
        frames: number of frames they are of.

    >>> age = np.linspace(1, 0, 400)
    >>> found = forgetting(np.exp(-20 * age) + 0.01, frames=50)
    >>> round(found.k), round(found.share, 2)
    (20, 0.84)
    """
    total = len(mass)
    p = mass / mass.sum()
    edges = np.unique(np.linspace(0, total, min(total, _BINS) + 1).round().astype(int))
    seen = np.add.reduceat(p, edges[:-1])
    even = np.diff(edges) / total
    most = max(4.0 * frames, 20.0)
    grid = np.geomspace(_LEAST_K, most, 24)
    step = grid[1] / grid[0]
    for _ in range(3):
        recent = _recent(grid, edges, total)
        share = _shares(seen, even, recent)
        fit = (seen * np.log((1 - share)[:, None] * even + share[:, None] * recent)).sum(1)
        best = int(fit.argmax())
        k = grid[best]
        found = Forgetting(float(k), float(share[best]))
        grid = np.geomspace(max(k / step, _LEAST_K), min(k * step, most), 9)
        step = grid[1] / grid[0]
    return found


def _recent(k: Float[np.ndarray, " K"], edges: Int[np.ndarray, " E"], total: int) -> Float[np.ndarray, "K B"]:
    """Share of the exponential in each bin of tokens: a geometric series from the newest one on."""
    rate = -k[:, None] / (total - 1)
    series = np.expm1(rate * (total - edges)) / np.expm1(rate * total)
    out: Float[np.ndarray, "K B"] = series[:, :-1] - series[:, 1:]
    return out


def _shares(
    seen: Float[np.ndarray, " B"], even: Float[np.ndarray, " B"], recent: Float[np.ndarray, "K B"]
) -> Float[np.ndarray, " K"]:
    """The best share for each k; the likelihood is concave in it, so its slope is bisected."""
    low, high = np.zeros(len(recent)), np.full(len(recent), 1 - 1e-6)
    gap = recent - even
    slope = seen * gap
    for _ in range(12):
        middle = (low + high) / 2
        rising = (slope / (even + middle[:, None] * gap)).sum(1) > 0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    out: Float[np.ndarray, " K"] = (low + high) / 2
    return out
