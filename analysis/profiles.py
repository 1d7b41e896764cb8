"""Profiles of attention over cache index, age and patch, as running statistics over questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from .mass import LayerMass

__all__ = ["AXES", "Profiles", "Running", "profile"]

AXES = ("index", "age", "patch")
# Masses below are taken for this in logarithms: float32 attention may be exactly 0.
FLOOR = 1e-12


@dataclass(eq=False)
class Running:
    """Count, mean, variance and mean logarithm of values that come one matrix ``[L, n]`` at a time.

    Sums of squares are merged as in Chan, Golub and LeVeque (1979). NaN stands for nothing there: every place
    has a count of its own, and matrices may differ in ``n``.

    >>> seen = Running()
    >>> seen.add(np.array([[1.0, 2.0]])); seen.add(np.array([[3.0, np.nan]]))
    >>> seen.count.tolist(), seen.mean.tolist(), seen.variance.tolist()
    ([[2.0, 1.0]], [[2.0, 2.0]], [[2.0, nan]])
    """

    count: Float[np.ndarray, "L n"] = field(default_factory=lambda: np.zeros((0, 0)))
    mean: Float[np.ndarray, "L n"] = field(default_factory=lambda: np.zeros((0, 0)))
    squares: Float[np.ndarray, "L n"] = field(default_factory=lambda: np.zeros((0, 0)))
    log: Float[np.ndarray, "L n"] = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def variance(self) -> Float[np.ndarray, "L n"]:
        """Variance over the values seen (n - 1); NaN where there are fewer than two."""
        return np.where(self.count > 1, self.squares / np.maximum(self.count - 1, 1), np.nan)

    def add(self, values: Float[np.ndarray, "L n"]) -> None:
        """Take one matrix in; NaN is left out."""
        there = np.isfinite(values)
        known = np.where(there, values, 0.0)
        logs = np.where(there, np.log(np.maximum(known, FLOOR)), 0.0)
        self.merge(Running(there.astype(float), known, np.zeros_like(known), logs))

    def merge(self, other: Running) -> None:
        """Take in what another has seen."""
        shape = [max(sizes) for sizes in zip(self.count.shape, other.count.shape, strict=True)]
        mine, theirs = ([_padded(part, shape) for part in stats.parts()] for stats in (self, other))
        count = mine[0] + theirs[0]
        share = theirs[0] / np.maximum(count, 1)
        apart = theirs[1] - mine[1]
        self.count = count
        self.mean = mine[1] + apart * share
        self.squares = mine[2] + theirs[2] + apart**2 * mine[0] * share
        self.log = mine[3] + (theirs[3] - mine[3]) * share

    def parts(self) -> tuple[Float[np.ndarray, "L n"], ...]:
        """Count, mean, sum of squared deviations and mean logarithm: what is to be saved."""
        return self.count, self.mean, self.squares, self.log


def _padded(part: Float[np.ndarray, "L n"], shape: Sequence[int]) -> Float[np.ndarray, "L2 n2"]:
    return np.pad(part, [(0, wanted - had) for wanted, had in zip(shape, part.shape, strict=True)])


@dataclass(eq=False)
class Profiles:
    """Profiles of all layers along three axes, over questions.

    Source: arXiv 2601.14724, Sec. 2, over cache index; age and patch are Hermes's own.

    Attributes:
        seconds: width of a bin of age.
        by: a running statistic for each of ``AXES``.
    """

    seconds: float
    by: dict[str, Running] = field(default_factory=lambda: {axis: Running() for axis in AXES})

    def add(self, layers: Sequence[Sequence[LayerMass]]) -> None:
        """Take in one question: for every layer an entry, or one a KV head (their mean is taken)."""
        for axis, running in self.by.items():
            rows = [_mean([profile(part, axis, self.seconds) for part in heads]) for heads in layers]
            together = np.full((len(rows), max(map(len, rows))), np.nan)
            for line, row in zip(together, rows, strict=True):
                line[: len(row)] = row
            running.add(together)

    def merge(self, other: Profiles) -> None:
        """Take in what others have seen."""
        for axis, running in self.by.items():
            running.merge(other.by[axis])

    def arrays(self, prefix: str) -> dict[str, Float[np.ndarray, "4 L n"]]:
        """Everything, as arrays to be saved under names that begin so."""
        return {f"{prefix}/{axis}": np.stack(running.parts()) for axis, running in self.by.items()}

    @staticmethod
    def of(seconds: float, arrays: Mapping[str, np.ndarray], prefix: str) -> Profiles:
        """The inverse of :meth:`arrays`."""
        return Profiles(seconds, {axis: Running(*arrays[f"{prefix}/{axis}"]) for axis in AXES})


def profile(layer: LayerMass, axis: str, seconds: float) -> Float[np.ndarray, " n"]:
    """Mean mass of a held video token along one axis; NaN where none is held.

    Source: arXiv 2601.14724, Sec. 2 for ``index``; the other axes are Hermes's own.

    Args:
        layer: one question in one layer.
        axis: ``index``, counted from the newest token; ``age``, in bins of ``seconds``; or ``patch``, the
            place in the frame (summaries have none).
        seconds: width of a bin of age.

    >>> newest_last = LayerMass(np.array([0.1, 0.2, 0.4]), np.array([0, 1, 1]), np.array([2.0, 1.0, 1.0]),
    ...                         np.array([0, 0, 1]))
    >>> profile(newest_last, "index", 1.0).tolist(), profile(newest_last, "patch", 1.0).tolist()
    ([0.4, 0.2, 0.1], [0.15000000000000002, 0.4])
    """
    video = layer.video
    if axis == "index":
        return video.mass[::-1]
    # The newest frame is as old as it is long when the question comes, and belongs into the first bin.
    ages = np.maximum(np.ceil(video.age / seconds - 1e-6).astype(int) - 1, 0)
    place = ages if axis == "age" else video.patch
    kept = place >= 0
    counts = np.bincount(place[kept])
    sums = np.bincount(place[kept], weights=video.mass[kept])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _mean(rows: Sequence[Float[np.ndarray, " _"]]) -> Float[np.ndarray, " n"]:
    """Mean of profiles that may differ in length, over those that have a value."""
    if len(rows) == 1:
        return rows[0]
    together = Running()
    for row in rows:
        together.add(row[None])
    out: Float[np.ndarray, " n"] = np.where(together.count > 0, together.mean, np.nan)[0]
    return out
