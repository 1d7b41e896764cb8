"""Methods at the same bytes: what each answers within the memory that another one holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hermes.evaluation.results.rows import AnswerRow, category, video_of
from hermes.evaluation.scoring.statistics import Interval, clustered, clustered_difference

__all__ = ["Line", "Matched", "Share", "difference", "lines_of", "mean_of", "persistent", "within_bytes"]

# Of a question, by video, clip and number: its category, its video, and its share of a right answer.
_Place = tuple[str, int, int]
_Values = Mapping[_Place, tuple[str, str, float]]


class Share(NamedTuple):
    """A mean over questions, or a mean difference, and its 95 % interval."""

    value: float
    interval: Interval


class Matched(NamedTuple):
    """What a method answers with at most so many bytes, and how many of them it holds."""

    values: _Values
    held: float


class Line(NamedTuple):
    """One method on the questions of a category, or all of them (``name`` empty), within some bytes.

    Attributes:
        gaps: name of a baseline -> the difference from it; not of a baseline from itself.
    """

    method: str
    name: str
    held: float
    share: Share
    gaps: Mapping[str, Share]


def lines_of(methods: Mapping[str, Matched], bases: Sequence[str]) -> list[Line]:
    """Every method's lines: all questions, then category by category."""
    out = []
    for method, own in methods.items():
        for name in ("", *sorted({kind for kind, _, _ in own.values.values()})):
            share = mean_of(own, name or None)
            others = [base for base in bases if base in methods and base != method]
            gaps = {base: difference(own, methods[base], name or None) for base in others}
            if share is not None:
                told = {base: gap for base, gap in gaps.items() if gap is not None}
                out.append(Line(method, name, own.held, share, told))
    return out


def persistent(rows: Sequence[AnswerRow]) -> int:
    """The most bytes a stream held at any question, in the memory, beside it and in an archive."""
    return max((row.memory_bytes + row.archived_bytes for row in rows), default=0)


def within_bytes(runs: Sequence[Sequence[AnswerRow]], size: float) -> Matched | None:
    """What a method answers with ``size`` bytes, from its runs at several budgets.

    Between two neighbouring budgets, one below that size and one above, each question counts by both answers,
    weighted by the logarithm of the bytes; where all runs hold less, by the one that holds most. Questions
    asked again are left out.

    Args:
        runs: of one method on the same questions, by budget.
        size: bytes.

    Returns:
        None where every run holds more.
    """
    held = [(persistent(rows), rows) for rows in runs if rows]
    for own, rows in held:
        if own == size:
            return Matched(_values(rows), size)
    for one, other in pairwise(held):
        (low, small), (high, large) = sorted((one, other), key=lambda run: run[0])
        if low < size < high:
            weight = math.log(size / low) / math.log(high / low)
            first, second = _values(small), _values(large)
            mixed = {
                place: (kind, video, (1 - weight) * x + weight * second[place][2])
                for place, (kind, video, x) in first.items()
                if place in second
            }
            return Matched(mixed, size)
    below = [run for run in held if run[0] < size]
    if not below:
        return None
    most, rows = max(below, key=lambda run: run[0])
    return Matched(_values(rows), most)


def mean_of(found: Matched, name: str | None = None) -> Share | None:
    """Mean over the questions of a category, or all; None if there are none.

    The interval is :func:`hermes.evaluation.scoring.statistics.clustered`.
    """
    chosen = [(video, x) for kind, video, x in found.values.values() if name in (None, kind)]
    if not chosen:
        return None
    sums, counts = _by_video(chosen)
    return Share(float(sums.sum() / counts.sum()), clustered(sums, counts))


def difference(found: Matched, base: Matched, name: str | None = None) -> Share | None:
    """Mean difference on the questions that both have, in pairs; None if there are none.

    The interval is :func:`hermes.evaluation.scoring.statistics.clustered_difference`.
    """
    gaps = [
        (video, x - base.values[place][2])
        for place, (kind, video, x) in found.values.items()
        if place in base.values and name in (None, kind)
    ]
    if not gaps:
        return None
    behind, counts = _by_video([(video, max(-gap, 0.0)) for video, gap in gaps])
    ahead, _ = _by_video([(video, max(gap, 0.0)) for video, gap in gaps])
    value = float((ahead - behind).sum() / counts.sum())
    return Share(value, clustered_difference(behind, ahead, counts))


def _values(rows: Sequence[AnswerRow]) -> dict[_Place, tuple[str, str, float]]:
    return {
        (video_of(row), row.clip, row.number): (category(row), video_of(row), float(row.correct))
        for row in rows
        if row.correct is not None and not row.delay_s
    }


def _by_video(values: Sequence[tuple[str, float]]) -> tuple[Float[np.ndarray, " G"], np.ndarray]:
    """Sum and number of the values of each video."""
    videos: dict[str, list[float]] = {}
    for video, x in values:
        videos.setdefault(video, []).append(x)
    sums = np.array([sum(each) for each in videos.values()])
    return sums, np.array([len(each) for each in videos.values()])
