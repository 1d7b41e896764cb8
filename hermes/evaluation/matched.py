"""Methods at the same bytes: what each answers within the memory that another one holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from hermes.evaluation.rows import Row, category, video_of
from hermes.evaluation.statistics import Interval, clustered_mean

__all__ = ["Matched", "Values", "less", "mean_of", "persistent", "values_within"]

# Of a question, by video, clip and number: its category, its video, and its share of a right answer.
_Place = tuple[str, int, int]
Values = Mapping[_Place, tuple[str, str, float]]


class Matched(NamedTuple):
    """A mean over questions and its 95 % interval (this project)."""

    value: float
    interval: Interval

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {"value": self.value, **self.interval._asdict()}


def persistent(rows: Sequence[Row]) -> int:
    """The most bytes a stream held at any question, in the memory, beside it and in an archive.

    Source: this project.
    """
    return max((row.memory_bytes + row.archived_bytes for row in rows), default=0)


def values_within(runs: Sequence[Sequence[Row]], size: float) -> Values | None:
    """What a method answers with ``size`` bytes, from its runs at several budgets.

    Source: this project. Between the two runs next to that size each question counts by both answers,
    weighted by the logarithm of the bytes. Questions asked again are left out.

    Args:
        runs: of one method on the same questions.
        size: bytes.

    Returns:
        None where even the smallest run holds more, or the largest less.
    """
    held = sorted(((persistent(rows), i) for i, rows in enumerate(runs) if rows))
    found = [_values(runs[i]) for size_, i in held if size_ == size]
    if found:
        return found[0]
    for (low, i), (high, j) in pairwise(held):
        if low < size < high:
            weight = math.log(size / low) / math.log(high / low)
            one, other = _values(runs[i]), _values(runs[j])
            return {
                place: (*one[place][:2], (1 - weight) * one[place][2] + weight * other[place][2])
                for place in one
                if place in other
            }
    return None


def mean_of(values: Values, name: str | None = None) -> Matched | None:
    """Mean over the questions of a category, or all; None if there are none.

    Source: this project; the interval is clustered by video.
    """
    return _mean({place: (video, x) for place, (kind, video, x) in values.items() if name in (None, kind)}, 0)


def less(values: Values, base: Values, name: str | None = None) -> Matched | None:
    """Mean difference on the questions that both have, in pairs (this project)."""
    return _mean(
        {
            place: (video, x - base[place][2])
            for place, (kind, video, x) in values.items()
            if place in base and name in (None, kind)
        },
        -1,
    )


def _values(rows: Sequence[Row]) -> dict[_Place, tuple[str, str, float]]:
    return {
        (video_of(row), row.clip, row.number): (category(row), video_of(row), float(row.correct))
        for row in rows
        if row.correct is not None and not row.delay_s
    }


def _mean(values: Mapping[_Place, tuple[str, float]], least: float) -> Matched | None:
    if not values:
        return None
    videos: dict[str, list[float]] = {}
    for video, x in values.values():
        videos.setdefault(video, []).append(x)
    sums = np.array([sum(each) for each in videos.values()])
    counts = np.array([len(each) for each in videos.values()])
    return Matched(float(sums.sum() / counts.sum()), clustered_mean(sums, counts, (least, 1.0)))
