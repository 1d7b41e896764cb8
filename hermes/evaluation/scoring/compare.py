"""Two runs on the same questions: which answered more, how surely, and in what their settings differ."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hermes.errors import InputError
from hermes.evaluation.results.journal import read_run
from hermes.evaluation.results.rows import AnswerRow, category, video_of
from hermes.evaluation.results.run_folder import settings_difference, settings_of
from hermes.evaluation.scoring.statistics import (
    Interval,
    bootstrap,
    clustered_difference,
    clustered_p,
    detectable,
    mcnemar,
)

__all__ = ["Comparison", "Difference", "compare_rows", "compare_runs", "settings_difference"]

_Pair = tuple[AnswerRow, AnswerRow]
_Key = tuple[str, int, str, float, int]


class Difference(NamedTuple):
    """Run B less run A on questions that both answered.

    Attributes:
        n, videos: how many questions, in how many videos.
        right_a, right_b: right answers of each.
        only_a, only_b: questions that one alone has right.
        interval: of the difference, 95 %, by :func:`.clustered_difference`.
        bootstrap: the same by the paired bootstrap over videos.
        p: of McNemar's exact test, which takes questions as independent.
        detectable: the smallest true difference that would be found with a power of 0.8; a share.
        p_clustered: of the test that ``interval`` stands for.
    """

    n: int
    videos: int
    right_a: int
    right_b: int
    only_a: int
    only_b: int
    interval: Interval
    bootstrap: tuple[float, float]
    p: float
    detectable: float
    p_clustered: float = 1.0

    @property
    def difference(self) -> float:
        """Accuracy of B less that of A, -1 to 1."""
        return (self.right_b - self.right_a) / self.n

    @property
    def told(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval.low > 0 or self.interval.high < 0

    @property
    def sentence(self) -> str:
        """What it means, in plain words."""
        asked = f"{_many(self.n, 'question')} in {_many(self.videos, 'video')}"
        if self.told:
            better, sign = ("B", 1) if self.difference > 0 else ("A", -1)
            ends = sorted(sign * end for end in self.interval[:2])
            by, span = _points(sign * self.difference), f"{_points(ends[0])} to {_points(ends[1])}"
            text = f"{better} is better by {by} points ({span}), on {asked}."
        elif self.detectable < 1:
            least = f"only one of {_points(self.detectable)} points or more would be found reliably"
            text = f"No difference can be told: with {asked}, {least}."
        else:
            return f"No difference can be told: {asked} are too few for any."
        caution = " Few videos, and few questions answered differently: the interval may be too narrow."
        return text + caution * self.interval.doubtful

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "n": self.n,
            "videos": self.videos,
            "accuracy_a": self.right_a / self.n,
            "accuracy_b": self.right_b / self.n,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "difference": self.difference,
            "low": self.interval.low,
            "high": self.interval.high,
            "doubtful": self.interval.doubtful,
            "bootstrap": list(self.bootstrap),
            "p": self.p_clustered,
            "mcnemar_p": self.p,
            "detectable": self.detectable if self.detectable < 1 else None,
            "sentence": self.sentence,
        }


class Comparison(NamedTuple):
    """Two runs side by side.

    Attributes:
        by_delay: questions asked again, by delay in seconds; they count nowhere else.
        unpaired_a, unpaired_b: rows that the other run does not have.
        unscored: pairs without a right answer in the benchmark, or without a judge's verdict in both.
        settings: dotted key, and its value in A and in B, where they differ.
    """

    overall: Difference
    by_category: dict[str, Difference]
    by_delay: dict[str, Difference]
    unpaired_a: int
    unpaired_b: int
    unscored: int
    settings: dict[str, tuple[Any, Any]]

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "overall": self.overall.record(),
            "by_category": {name: found.record() for name, found in self.by_category.items()},
            "by_delay": {delay: found.record() for delay, found in self.by_delay.items()},
            "unpaired_a": self.unpaired_a,
            "unpaired_b": self.unpaired_b,
            "unscored": self.unscored,
            "settings": {key: list(values) for key, values in self.settings.items()},
        }


def compare_runs(a: str | Path, b: str | Path) -> Comparison:
    """Compare two runs by their folders.

    Raises:
        InputError: a folder that holds no run, or runs that were not asked the same questions.
    """
    a, b = Path(a), Path(b)
    (rows_a, about_a), (rows_b, about_b) = read_run(a), read_run(b)
    for folder, about in ((a, about_a), (b, about_b)):
        settings_of(about, str(folder / "manifest.json"))
    return compare_rows(rows_a, rows_b, settings_difference(about_a, about_b), names=(str(a), str(b)))


def compare_rows(
    a: Sequence[AnswerRow],
    b: Sequence[AnswerRow],
    settings: Mapping[str, tuple[Any, Any]] | None = None,
    *,
    names: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Pair the rows of two runs, and compare what is paired.

    A pair has the same video, question, number within the video and time, give or take the length of a frame.
    Paths are compared from the folder that all videos of a run share, where they do not agree as they stand.

    Args:
        a, b: rows.
        settings: what to record as differing.
        names: of the runs, in errors.

    Raises:
        InputError: no pair, pairs of different answers or choices, or none with a right answer.
    """
    pairs = _paired(a, b, video_of, video_of) or _paired(a, b, _from_shared(a), _from_shared(b))
    if not pairs:
        example = f"{names[0]} asks {_place(a[0])}, {names[1]} {_place(b[0])}" if a and b else "one is empty"
        raise InputError(f"{names[0]} and {names[1]} have no question in common: {example}")
    for one, other in pairs:
        if (one.expected, sorted(one.choices)) != (other.expected, sorted(other.choices)):
            raise InputError(
                f"{names[0]} and {names[1]} are not of the same benchmark: to {_place(one)} "
                f"the first expects {_expected(one)}, the second {_expected(other)}"
            )
    answered = [pair for pair in pairs if pair[0].correct is not None and pair[1].correct is not None]
    scored = [pair for pair in answered if not pair[0].delay_s]
    if not scored:
        needed = any(row.needs_judge for pair in pairs for row in pair)
        hint = "; open-ended ones need a judge: hermes judge RUN judge=openai ..." if needed else ""
        raise InputError(f"{names[0]} and {names[1]}: no answer is scored in both{hint}")
    parts: dict[str, list[_Pair]] = {}
    for pair in scored:
        parts.setdefault(category(pair[0]), []).append(pair)
    later: dict[float, list[_Pair]] = {}
    for pair in answered:
        if pair[0].delay_s:
            later.setdefault(pair[0].delay_s, []).append(pair)
    return Comparison(
        overall=_difference(scored),
        by_category={name: _difference(part) for name, part in sorted(parts.items())},
        by_delay={f"{delay:g}": _difference(part) for delay, part in sorted(later.items())},
        unpaired_a=len(a) - len(pairs),
        unpaired_b=len(b) - len(pairs),
        unscored=len(pairs) - len(answered),
        settings=dict(settings or {}),
    )


def _paired(
    a: Sequence[AnswerRow],
    b: Sequence[AnswerRow],
    video_a: Callable[[AnswerRow], str],
    video_b: Callable[[AnswerRow], str],
) -> list[_Pair]:
    others = dict(_keyed(b, video_b))
    found = ((row, others.get(key)) for key, row in _keyed(a, video_a))
    return [(row, other) for row, other in found if other is not None and _together(row, other)]


def _keyed(rows: Sequence[AnswerRow], video: Callable[[AnswerRow], str]) -> Iterable[tuple[_Key, AnswerRow]]:
    """Each row with what tells it from all others; a benchmark may ask the same of a video twice."""
    seen: Counter[tuple[str, int, str, float]] = Counter()
    for row in rows:
        place = (video(row), row.number, row.question, row.delay_s)
        yield (*place, seen[place]), row
        seen[place] += 1


def _together(a: AnswerRow, b: AnswerRow) -> bool:
    # A question at the end of a video is asked when its last frame is over, at any frame rate.
    frame = max(row.time_s / max(row.frames_seen, 1) for row in (a, b))
    return abs(a.time_s - b.time_s) <= frame + 1e-6


def _from_shared(rows: Sequence[AnswerRow]) -> Callable[[AnswerRow], str]:
    """The path of a row's video from the folder that those of all rows are in."""
    folders = {os.path.dirname(video_of(row)) for row in rows}
    try:
        shared = os.path.commonpath(folders) if folders else ""
    except ValueError:
        # Absolute and relative ones share none.
        shared = ""
    return lambda row: os.path.relpath(video_of(row), shared or ".")


def _difference(pairs: Sequence[_Pair]) -> Difference:
    places = {name: index for index, name in enumerate(dict.fromkeys(video_of(a) for a, _ in pairs))}
    video = np.array([places[video_of(a)] for a, _ in pairs], dtype=np.int64)
    right_a, right_b = (np.array([bool(pair[run].correct) for pair in pairs]) for run in (0, 1))
    asked, only_a, only_b = (
        np.bincount(video[chosen], minlength=len(places))
        for chosen in (np.ones(len(pairs), bool), right_a & ~right_b, right_b & ~right_a)
    )
    return Difference(
        n=len(pairs),
        videos=len(places),
        right_a=int(right_a.sum()),
        right_b=int(right_b.sum()),
        only_a=int(only_a.sum()),
        only_b=int(only_b.sum()),
        interval=clustered_difference(only_a, only_b, asked),
        bootstrap=bootstrap(only_b - only_a, asked),
        p=mcnemar(int(only_a.sum()), int(only_b.sum())),
        detectable=detectable(only_a, only_b, asked),
        p_clustered=clustered_p(only_a, only_b, asked),
    )


def _place(row: AnswerRow) -> str:
    return f"{row.question!r} at {row.time_s:g} s of {video_of(row)}"


def _expected(row: AnswerRow) -> str:
    return f"{row.expected!r}" + (f" of {', '.join(row.choices)}" if row.choices else "")


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _many(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"
