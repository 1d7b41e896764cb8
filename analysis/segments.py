"""Where a series over depth changes: optimal segments, and how many of them the evidence supports."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["fitted", "segment", "segments_supported", "standardised", "structure_p"]


# A shorter segment has no slope: a line would follow noise, or the step to a short tier.
_SLOPED = 8


def standardised(x: Float[np.ndarray, "*runs L D"]) -> Float[np.ndarray, "*runs L D"]:
    """Each measure in units of its noise from layer to layer.

    The noise is ``median |x_(l+1) - x_l| / 0.954``, which a few steps do not change and which estimates the
    standard deviation of independent normal layers; but at least a fifth of the standard deviation over
    layers, so that a measure that hardly varies does not outweigh all others.

    >>> float(standardised(np.array([[0.0], [1.0], [0.0], [9.0]]))[3, 0].round(2))
    8.59
    """
    steps = np.median(np.abs(np.diff(x, axis=-2)), axis=-2, keepdims=True) / 0.954
    scale = np.maximum(steps, x.std(axis=-2, keepdims=True) / 5)
    out: Float[np.ndarray, "*runs L D"] = x / np.where(scale > 0, scale, 1.0)
    return out


def segment(
    x: Float[np.ndarray, "*run L D"], most: int
) -> tuple[Float[np.ndarray, "*run M"], list[list[int]]]:
    """Squared error of the best division into 1, 2, ... ``most`` segments, by dynamic programming.

    The algorithm is Bellman's (Commun. ACM 4, 1961). In a segment of eight layers or more each measure
    follows a straight line, as the weight of recency does in the paper's working tier; in a shorter one it is
    constant. Segments need not meet. Each is a twentieth of the layers or more.

    Args:
        x: measures over depth; or many such series.
        most: segments.

    Returns:
        The errors, and for one series the first layer of each segment but the first, per
        number of segments.

    >>> segment(np.array([[0.0], [0.0], [5.0], [5.0], [5.0]]), 2)
    (array([30.,  0.]), [[], [2]])
    """
    if x.ndim > 2:
        # In small parts, which stay in the processor's cache.
        parts = np.split(x, range(64, len(x), 64))
        return np.concatenate([_errors(_costs(part), most)[0] for part in parts]), []
    errors, back = _errors(_costs(x[None]), most)
    firsts: list[list[int]] = []
    for number in range(most):
        found, end = [], len(x)
        for step in reversed(range(number)):
            # The start of the last segment, by what it costs to have it there.
            end = int(back[step][0, :, end].argmin())
            found.append(end)
        firsts.append(found[::-1])
    return errors[0], firsts


def _errors(
    cost: Float[np.ndarray, "R L1 L1"], most: int
) -> tuple[Float[np.ndarray, "R M"], list[Float[np.ndarray, "R L1 L1"]]]:
    """Least errors of 1 .. most segments, and what they are the least of: [runs, last start, end]."""
    errors, candidates = [cost[:, 0]], []
    for _ in range(1, most):
        candidates.append(errors[-1][:, :, None] + cost)
        errors.append(candidates[-1].min(1))
    return np.stack([error[:, -1] for error in errors], axis=-1), candidates


def fitted(x: Float[np.ndarray, "L D"], firsts: list[int]) -> Float[np.ndarray, "L D"]:
    """The line of its segment in place of each layer, see :func:`segment`.

    >>> fitted(np.array([[0.0], [2.0], [5.0]]), [2]).T
    array([[1., 1., 5.]])
    """
    parts = []
    for part in np.split(x, firsts):
        depth = np.arange(len(part)) - (len(part) - 1) / 2
        slope = depth @ part / (depth @ depth) if len(part) >= _SLOPED else np.zeros(x.shape[1])
        parts.append(part.mean(0) + depth[:, None] * slope)
    return np.concatenate(parts)


def structure_p(x: Float[np.ndarray, "L D"], most: int, permutations: int = 999, seed: int = 0) -> float:
    """p-value that the order of the layers does not matter.

    The statistic is ``sum_m log(error_0 / error_m)`` over 1 to ``most`` segments of the standardised
    measures, with ``error_0`` around one mean; layers are permuted, all measures together. If the layers are
    exchangeable a value as large has exactly this probability, whatever their distribution.

    >>> steps = np.repeat([0.0, 5.0, 9.0], 4)[:, None] + np.random.default_rng(0).normal(size=(12, 1))
    >>> structure_p(steps, most=3) < 0.01
    True
    """
    random = np.random.default_rng(seed)
    orders = np.argsort(random.random((permutations, len(x))), axis=1)
    every = standardised(np.concatenate([x[None], x[orders]]))
    around = (every.var(1).sum(1) * len(x))[:, None]
    # Noise-free steps would have no error at all.
    errors = np.maximum(segment(every, most)[0], 1e-9 * around + 1e-300)
    statistic = np.log(np.maximum(around, 1e-300) / errors).sum(1)
    return float(np.mean(statistic >= statistic[0] - 1e-9))


def segments_supported(
    x: Float[np.ndarray, "L D"], most: int, level: float = 0.01, draws: int = 999, seed: int = 0
) -> tuple[int, list[float]]:
    """The number of segments: more are taken while they explain more than they would of noise.

    From m to n segments the statistic is ``(error_m - error_n) / error_n``. Its distribution under m segments
    comes from ``draws`` series of the m lines plus normal noise, correlated between measures as the residuals
    of n segments are; each is segmented anew, so that the choice of the best boundaries is paid for. One more
    segment is tried first, then two more, as a tier between two like ones needs both its boundaries to be
    seen. Beyond the first step, of which :func:`structure_p` has told, the level is a quarter: layers of one
    tier are noisier than those of another, which a test of even noise takes for steps.

    Args:
        x: standardised measures.
        most: segments that are tried.
        level: of the tests from one segment, a quarter of it from more.
        draws: per test.
        seed: of the draws.

    Returns:
        The number, and the p-values of the tests in their order.

    >>> steps = np.repeat([0.0, 9.0], 8)[:, None] + np.random.default_rng(0).normal(size=(16, 1))
    >>> segments_supported(steps, most=4)[0]
    2
    """
    random = np.random.default_rng(seed)
    errors, firsts = segment(x, most)
    number, values = 1, []
    while number < most:
        for more in range(number + 1, min(number + 2, most) + 1):
            residual = x - fitted(x, firsts[more - 1])
            # The scale cancels in the statistic, the correlation does not.
            covariance = residual.T @ residual / len(x)
            ridge = (1e-9 * np.trace(covariance) + 1e-12) * np.eye(x.shape[1])
            noise = random.normal(size=(draws, *x.shape)) @ np.linalg.cholesky(covariance + ridge).T
            drawn = segment(fitted(x, firsts[number - 1]) + noise, more)[0]
            (seen,) = _gain(errors[[number - 1]], errors[[more - 1]])
            chance = _gain(drawn[:, number - 1], drawn[:, more - 1])
            values.append((1 + int((chance >= seen).sum())) / (1 + draws))
            if values[-1] <= (level if number == 1 else level / 4):
                number = more
                break
        else:
            break
    return number, values


def _gain(fewer: Float[np.ndarray, " R"], more: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
    out: Float[np.ndarray, " R"] = (fewer - more) / np.maximum(more, 1e-9 * fewer + 1e-300)
    return out


def _costs(x: Float[np.ndarray, "R L D"]) -> Float[np.ndarray, "R L1 L1"]:
    """Squared error of layers i .. j - 1 around their line or mean, infinite where they are too few."""
    x = x - x.mean(1, keepdims=True)
    count = x.shape[1]
    depth = np.arange(count) - (count - 1) / 2
    ends = np.arange(count + 1)
    length = ends[None, :] - ends[:, None]
    over = np.maximum(length, 1)
    at = _between(depth[None])[0]
    spread = _between(depth[None] ** 2)[0] - at**2 / over
    sloped = length >= _SLOPED
    cost = np.zeros((len(x), count + 1, count + 1))
    for measure in np.moveaxis(x, 2, 0):
        sums = _between(measure)
        cost += _between(measure**2) - sums**2 / over
        along = _between(measure * depth) - at * sums / over
        cost -= np.where(sloped, along**2 / np.where(sloped, spread, 1.0), 0.0)
    return np.where(length >= -(-count // 20), np.maximum(cost, 0.0), np.inf)


def _between(values: Float[np.ndarray, "R L"]) -> Float[np.ndarray, "R L1 L1"]:
    """Sums of values i .. j - 1."""
    sums = np.concatenate([np.zeros((len(values), 1)), values.cumsum(1)], axis=1)
    out: Float[np.ndarray, "R L1 L1"] = sums[:, None] - sums[:, :, None]
    return out
