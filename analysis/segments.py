"""Where a series over depth changes: optimal segments, and how many of them the evidence supports."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["fitted", "segment", "segments_supported", "standardised", "structure_p"]


def standardised(x: Float[np.ndarray, "*runs L D"]) -> Float[np.ndarray, "*runs L D"]:
    """Each measure in units of its noise from layer to layer.

    Source: this project. The noise is ``median |x_(l+1) - x_l| / 0.954``, which a few steps do not change and
    which estimates the standard deviation of independent normal layers; but at least a fifth of the standard
    deviation over layers, so that a measure that hardly varies does not outweigh all others.

    >>> float(standardised(np.array([[0.0], [1.0], [0.0], [9.0]]))[3, 0].round(2))
    8.59
    """
    steps = np.median(np.abs(np.diff(x, axis=-2)), axis=-2, keepdims=True) / 0.954
    scale = np.maximum(steps, x.std(axis=-2, keepdims=True) / 5)
    out: Float[np.ndarray, "*runs L D"] = x / np.where(scale > 0, scale, 1.0)
    return out


def segment(
    x: Float[np.ndarray, "*runs L D"], most: int, shortest: int = 1
) -> tuple[Float[np.ndarray, "*runs M"], list[list[int]]]:
    """Squared error of the best division into 1, 2, ... ``most`` runs of layers, by dynamic programming.

    Source: this project; the algorithm is Bellman's (Commun. ACM 4, 1961).

    Args:
        x: measures over depth.
        most: segments.
        shortest: layers of a segment.

    Returns:
        The errors, and for one series (no leading axes) the first layer of each segment but the first, per
        number of segments.

    >>> segment(np.array([[0.0], [0.0], [5.0], [5.0], [5.0]]), 2)
    (array([30.,  0.]), [[], [2]])
    """
    runs, (count, _) = x.shape[:-2], x.shape[-2:]
    cost = _costs(x.reshape(-1, *x.shape[-2:]))
    short = np.arange(count + 1)[None, :] - np.arange(count + 1)[:, None] < shortest
    cost[:, short] = np.inf
    errors = [cost[:, 0, :]]
    back = []
    for _ in range(1, most):
        # [runs, last start, end]: the best of one segment fewer up to the start, and one from there on.
        candidates = errors[-1][:, :, None] + cost
        back.append(candidates.argmin(1))
        errors.append(candidates.min(1))
    best = np.stack([error[:, count] for error in errors], axis=-1)
    firsts: list[list[int]] = []
    if not runs:
        for number in range(most):
            found, end = [], count
            for step in reversed(range(number)):
                end = int(back[step][0, end])
                found.append(end)
            firsts.append(found[::-1])
    return best.reshape(*runs, most), firsts


def fitted(x: Float[np.ndarray, "L D"], firsts: list[int]) -> Float[np.ndarray, "L D"]:
    """The mean of its segment in place of each layer (this project).

    >>> fitted(np.array([[0.0], [2.0], [5.0]]), [2]).T
    array([[1., 1., 5.]])
    """
    return np.concatenate([np.broadcast_to(part.mean(0), part.shape) for part in np.split(x, firsts)])


def structure_p(x: Float[np.ndarray, "L D"], most: int, permutations: int = 999, seed: int = 0) -> float:
    """p-value that the order of the layers does not matter.

    Source: this project. The statistic is ``sum_m log(error_1 / error_m)`` over 2 to ``most`` segments of the
    standardised measures; layers are permuted, all measures together. If the layers are exchangeable a
    value as large has exactly this probability, whatever their distribution.

    >>> steps = np.repeat([0.0, 5.0, 9.0], 4)[:, None] + np.random.default_rng(0).normal(size=(12, 1))
    >>> structure_p(steps, most=3) < 0.01
    True
    """
    random = np.random.default_rng(seed)
    orders = np.argsort(random.random((permutations, len(x))), axis=1)
    every = np.concatenate([x[None], x[orders]])
    errors = segment(standardised(every), most)[0]
    # Noise-free steps would have no error at all.
    errors = np.maximum(errors, 1e-9 * errors[:, :1])
    statistic = np.log(errors[:, :1] / errors[:, 1:]).sum(1)
    return float(np.mean(statistic >= statistic[0] * (1 - 1e-9)))


def segments_supported(
    x: Float[np.ndarray, "L D"], most: int, level: float = 0.01, draws: int = 999, seed: int = 0
) -> tuple[int, list[float]]:
    """The number of segments: one more is taken while it explains more than it would of noise.

    Source: this project. From m to m + 1 the statistic is ``(error_m - error_(m+1)) / error_(m+1)``. Its
    distribution under m segments comes from ``draws`` series of the m means plus normal noise, correlated
    between measures as the residuals of m + 1 segments are; each is segmented anew, so that the choice of the
    best boundary is paid for.

    Args:
        x: standardised measures.
        most: segments that are tried.
        level: of each test.
        draws: per test.
        seed: of the draws.

    Returns:
        The number, and the p-value of each step that was tried.

    >>> steps = np.repeat([0.0, 9.0], 8)[:, None] + np.random.default_rng(0).normal(size=(16, 1))
    >>> segments_supported(steps, most=4)[0]
    2
    """
    errors, firsts = segment(x, most)
    random = np.random.default_rng(seed)
    values: list[float] = []
    for number in range(1, most):
        residual = x - fitted(x, firsts[number])
        freedom = max(len(x) - number - 1, 1)
        covariance = residual.T @ residual / freedom
        root = np.linalg.cholesky(covariance + 1e-9 * (np.trace(covariance) + 1e-12) * np.eye(x.shape[1]))
        noise = random.normal(size=(draws, *x.shape)) @ root.T
        drawn = segment(fitted(x, firsts[number - 1]) + noise, number + 1)[0]
        seen = _gain(errors[number - 1], errors[number])
        chance = _gain(drawn[:, number - 1], drawn[:, number])
        values.append((1 + int((chance >= seen).sum())) / (1 + draws))
        if values[-1] > level:
            return number, values
    return most, values


def _gain(fewer: Float[np.ndarray, " R"], more: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
    out: Float[np.ndarray, " R"] = (fewer - more) / np.maximum(more, 1e-9 * fewer + 1e-300)
    return out


def _costs(x: Float[np.ndarray, "R L D"]) -> Float[np.ndarray, "R L1 L1"]:
    """Squared error of layers i .. j - 1 around their mean, infinite where i >= j."""
    x = x - x.mean(1, keepdims=True)
    zero = np.zeros((len(x), 1, x.shape[2]))
    sums = np.concatenate([zero, x.cumsum(1)], axis=1)
    squares = np.concatenate([zero, (x**2).cumsum(1)], axis=1).sum(2)
    ends = np.arange(sums.shape[1])
    length = ends[None, :] - ends[:, None]
    between = sum((s[:, None] - s[:, :, None]) ** 2 for s in np.moveaxis(sums, 2, 0))
    cost = squares[:, None] - squares[:, :, None] - between / np.maximum(length, 1)
    out: Float[np.ndarray, "R L1 L1"] = np.where(length > 0, np.maximum(cost, 0.0), np.inf)
    return out
