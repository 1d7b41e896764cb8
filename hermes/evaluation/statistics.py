"""How sure an accuracy is."""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["wilson"]


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: it stays within 0 and 1, and is sound for few questions.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927); questions are taken as independent.

    Args:
        right: successes.
        n: trials; none gives (0, 1).
        level: confidence.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Exactly, where rounding would leave a trace.
    return 0.0 if right == 0 else middle - half, 1.0 if right == n else middle + half
