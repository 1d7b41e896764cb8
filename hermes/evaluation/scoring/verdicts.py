"""What the verdicts of a run come to: mean scores, and how many answers have none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

import numpy as np

from hermes.evaluation.results.rows import MOST, AnswerRow
from hermes.evaluation.scoring.statistics import Interval, clustered_mean
from hermes.reading import Count

__all__ = ["MeanScore", "Verdicts", "VerdictsRecord", "verdicts"]


class MeanScore(NamedTuple):
    """Mean of a judge's scores, 0 to 5, over ``n`` answers, with its 95 % interval."""

    mean: float
    n: int
    interval: Interval

    @property
    def span(self) -> str:
        """The interval, with a star if it is doubtful."""
        return self.interval.span(".2f", 1)

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        low, high, doubtful = self.interval
        return {"mean": self.mean, "n": self.n, "low": low, "high": high, "doubtful": doubtful}


class VerdictsRecord(TypedDict):
    """How many verdicts there are and lack, as JSON has it."""

    n: Count
    waiting: Count
    unreadable: Count


class Verdicts(NamedTuple):
    """Of the open-ended answers of a run.

    Attributes:
        n: answers that a judge is needed for.
        waiting: those that no judge has seen.
        unreadable: those that a judge has seen without a verdict that could be read.
        scores: means by category, and of all under ``all``.
    """

    n: int = 0
    waiting: int = 0
    unreadable: int = 0
    scores: Mapping[str, MeanScore] = MappingProxyType({})

    def notes(self, judge: str = "hermes judge RUN") -> list[str]:
        """What is not scored, why, and what to do about it, in sentences; ``judge`` is the command.

        >>> Verdicts(5, 5).notes()[0][:82]
        '5 open-ended answers are not scored, because no judge was given. To have them judg'
        """
        found = []
        command = f"{judge} judge=openai judge.model=NAME judge.base_url=URL"
        if self.waiting == self.n and self.n:
            found.append(
                f"{self.n} open-ended answers are not scored, because no judge was given. To have them "
                f"judged: {command} (judge=words compares words, which needs no model and says little)"
            )
        elif self.waiting:
            found.append(
                f"{self.waiting} of {self.n} open-ended answers are not judged yet and not scored: {command}"
            )
        if self.unreadable:
            found.append(
                f"{self.unreadable} of {self.n} open-ended answers are not scored, because no reply of the "
                "judge to them could be read; the same command asks again"
            )
        return found

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        scores = {name: score.record() for name, score in self.scores.items()}
        return {"n": self.n, "waiting": self.waiting, "unreadable": self.unreadable, "scores": scores}


def verdicts(
    rows: Iterable[AnswerRow], category: Callable[[AnswerRow], str], video: Callable[[AnswerRow], str]
) -> Verdicts:
    """Count the verdicts and average the scores.

    Args:
        rows: of a run.
        category: what a row is counted under.
        video: what its video is told by.
    """
    judged = [row for row in rows if row.needs_judge]
    scored = [row for row in judged if row.score is not None]
    names = sorted({category(row) for row in scored})
    parts = {name: [row for row in scored if category(row) == name] for name in names}
    if scored:
        parts["all"] = scored
    return Verdicts(
        n=len(judged),
        waiting=sum(row.judge is None for row in judged),
        unreadable=sum(row.judge is not None and row.correct is None for row in judged),
        scores={name: _mean(part, video) for name, part in parts.items()},
    )


def _mean(rows: list[AnswerRow], video: Callable[[AnswerRow], str]) -> MeanScore:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(video(row), []).append(row.score or 0.0)
    sums = np.array([sum(scores) for scores in found.values()], dtype=np.float64)
    counts = np.array([len(scores) for scores in found.values()])
    mean = float(sums.sum()) / len(rows)
    return MeanScore(mean, len(rows), clustered_mean(sums, counts, (0.0, MOST)))
