"""Accuracies of a run: overall, by kind, by age of the evidence and by delay; averages; what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from hermes.errors import InputError
from hermes.evaluation.results.journal import Broken
from hermes.evaluation.results.rows import AnswerRow, category, video_of
from hermes.evaluation.scoring.measures import Average, Cost, averages, costs
from hermes.evaluation.scoring.statistics import Interval, clustered, clustered_difference, wilson
from hermes.evaluation.scoring.verdicts import Verdicts, VerdictsRecord, verdicts
from hermes.reading import Count, Form, Number, Share

__all__ = [
    "Loss",
    "Score",
    "Summary",
    "SummaryRecord",
    "age_bin",
    "grouped",
    "score",
    "summarise",
    "youngest",
]


# How ages and delays are written.
Bin = Annotated[str, Form(r"\d{1,20}-\d{1,20}")]
Delay = Annotated[str, Form(r"\d{1,15}(\.\d+)?(e[+-]\d{1,2})?")]


class ScoreRecord(TypedDict):
    """A score as JSON has it."""

    right: Count
    n: Count
    chance: Share | None
    accuracy: Share
    low: Number
    high: Number
    doubtful: NotRequired[bool]


class ChangeRecord(TypedDict):
    """A change of accuracy as JSON has it."""

    difference: Number
    low: Number
    high: Number
    doubtful: NotRequired[bool]


class LossRecord(ScoreRecord):
    """What asking again comes to, as JSON has it."""

    before: Share
    change: ChangeRecord


class AverageRecord(TypedDict):
    """An average as JSON has it."""

    value: Number
    low: Number
    high: Number
    doubtful: NotRequired[bool]


class CostRecord(TypedDict):
    """A cost as JSON has it."""

    median: Number
    mean: Number
    high: Number


class SummaryRecord(TypedDict):
    """A summary as JSON has it: what :meth:`Summary.record` gives, and earlier versions gave."""

    overall: ScoreRecord
    by_category: dict[str, ScoreRecord]
    by_kind: dict[str, ScoreRecord]
    by_age: NotRequired[dict[str, dict[Bin, ScoreRecord]]]
    by_delay: NotRequired[dict[str, dict[Delay, LossRecord]]]
    averages: NotRequired[dict[str, AverageRecord]]
    costs: NotRequired[dict[str, CostRecord]]
    verdicts: NotRequired[VerdictsRecord]
    judge: NotRequired[str]


class Score(NamedTuple):
    """Right answers among ``n``, and the accuracy that guessing would have (None: unknown).

    Attributes:
        by_video: right answers and questions of each video; none: every question is of a video of its own.

    >>> Score(8, 10, 0.25).accuracy, [round(x, 2) for x in Score(8, 10, 0.25).interval]
    (0.8, [0.49, 0.94])
    >>> [round(x, 2) for x in Score(8, 10, 0.25, ((5, 5), (3, 5))).interval]
    [0.02, 1.0]
    """

    right: int
    n: int
    chance: float | None
    by_video: tuple[tuple[int, int], ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.right / self.n if self.n else 0.0

    @property
    def method(self) -> str:
        """How its interval comes about: ``clustered`` by video, or ``wilson`` for one question a video."""
        return "clustered" if any(asked > 1 for _, asked in self.by_video) else "wilson"

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy."""
        return self._interval()[:2]

    @property
    def span(self) -> str:
        """The interval in per cent, with a star if it is doubtful."""
        return self._interval().span()

    def _interval(self) -> Interval:
        if self.method == "wilson":
            return Interval(*wilson(self.right, self.n))
        right, asked = np.array(self.by_video).T
        return clustered(right, asked)

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        low, high, doubtful = self._interval()
        about = {"right": self.right, "n": self.n, "chance": self.chance, "accuracy": self.accuracy}
        videos = len(self.by_video) or self.n
        ends = {"low": low, "high": high, "interval": self.method, "doubtful": doubtful}
        return {**about, **ends, "videos": videos}


class Loss(NamedTuple):
    """Questions asked again after a delay, beside the same ones at their own time.

    Attributes:
        now: asked again.
        before: the same questions, at their own time.
        change: accuracy of the former less the latter, with its interval.
    """

    now: Score
    before: Score
    change: Interval

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        difference = self.now.accuracy - self.before.accuracy
        change = {"difference": difference, **self.change._asdict()}
        return {**self.now.record(), "before": self.before.accuracy, "change": change}


class Summary(NamedTuple):
    """Scores of a run; ``unscored`` questions have no answer in the benchmark.

    What was asked again after a delay counts in ``by_delay`` alone.

    Attributes:
        by_age: of each category, by age of the evidence in seconds, ``"8-16"`` from 8 to below 16.
        by_delay: of each category and of ``all``, by delay in seconds.
        averages: means of accuracies, by how they are taken (see :func:`averages`).
        costs: name of a measure -> what it came to (see :data:`MEASURES`).
        verdicts: of the judge, on open-ended answers; those without one are not scored either.
        broken: videos that could not be read, and what they cost.
    """

    overall: Score
    by_category: dict[str, Score]
    by_kind: dict[str, Score]
    by_age: dict[str, dict[str, Score]]
    unscored: int
    by_delay: dict[str, dict[str, Loss]]
    averages: dict[str, Average]
    costs: dict[str, Cost]
    verdicts: Verdicts = Verdicts()
    broken: tuple[Broken, ...] = ()

    @property
    def faults(self) -> list[str]:
        """A sentence for each video that could not be read to its last question."""
        return [
            f"{one.video}: {one.questions} question{'s' * (one.questions != 1)} not asked: {one.error}"
            for one in self.broken
        ]

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "overall": self.overall.record(),
            "by_category": {name: score.record() for name, score in self.by_category.items()},
            "by_kind": {name: score.record() for name, score in self.by_kind.items()},
            "by_age": {
                name: {age: score.record() for age, score in ages.items()}
                for name, ages in self.by_age.items()
            },
            "by_delay": {
                name: {delay: loss.record() for delay, loss in losses.items()}
                for name, losses in self.by_delay.items()
            },
            "averages": {name: average.record() for name, average in self.averages.items()},
            "costs": {name: cost.record() for name, cost in self.costs.items()},
            "unscored": self.unscored,
            "verdicts": self.verdicts.record(),
            **({"broken": [asdict(one) for one in self.broken]} if self.broken else {}),
        }


def grouped(record: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """A summary's record in long form: group (overall, category, kind, age, delay), name in it, score."""
    out = [("overall", "all", record["overall"])]
    out += [("category", name, score) for name, score in record["by_category"].items()]
    out += [("kind", name, score) for name, score in record["by_kind"].items()]
    for group, unit in (("age", " s"), ("delay", " s later")):
        for name, parts in record.get(f"by_{group}", {}).items():
            out += [(group, f"{name} {part}{unit}", score) for part, score in parts.items()]
    return out


def age_bin(seconds: float) -> str:
    """The age's bin: below a second, then each twice as long as the one before.

    Raises:
        InputError: no such age: it is infinite, or below 0.

    >>> [age_bin(age) for age in (0, 1, 3, 8, 100)]
    ['0-1', '1-2', '2-4', '8-16', '64-128']
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"an age of {seconds} s; needed: 0 or more seconds")
    high = 1 << max(math.frexp(seconds)[1], 0)
    return f"{high // 2}-{high}"


def youngest(age: str) -> float:
    """The smallest age (s) of a bin of :func:`age_bin`.

    >>> youngest("8-16")
    8.0
    """
    return float(age.partition("-")[0])


def summarise(rows: Iterable[AnswerRow], broken: Iterable[Broken] = ()) -> Summary:
    """Count the right answers of a run, of which some videos may be broken."""
    everything = list(rows)
    at_once = [row for row in everything if not row.delay_s]
    scored = [row for row in at_once if row.correct is not None]
    aged = [row for row in scored if row.age_s is not None]
    ages = {
        name: _scores(part, lambda row: age_bin(row.age_s or 0.0)) for name, part in _parts(aged, category)
    }
    return Summary(
        overall=score(scored),
        by_category=_scores(scored, category),
        by_kind=_scores(scored, lambda row: row.kind + (" (choice)" if row.choices else "")),
        by_age={
            name: dict(sorted(found.items(), key=lambda item: youngest(item[0])))
            for name, found in ages.items()
        },
        unscored=sum(row.correct is None and not row.needs_judge for row in at_once),
        by_delay=_losses(everything),
        averages=averages(scored),
        costs=costs(at_once),
        verdicts=verdicts(at_once, category, video_of),
        broken=tuple(broken),
    )


def _losses(rows: Sequence[AnswerRow]) -> dict[str, dict[str, Loss]]:
    first = {(row.clip, row.number): row for row in rows if not row.delay_s}
    pairs = []
    for row in rows:
        own = first.get((row.clip, row.number))
        if row.delay_s and own is not None and row.correct is not None and own.correct is not None:
            pairs.append((own, row))
    out: dict[str, dict[str, Loss]] = {}
    names = sorted({category(row) for _, row in pairs})
    for name in [*names, "all"] if pairs else []:
        mine = [pair for pair in pairs if name in ("all", category(pair[1]))]
        for delay in sorted({row.delay_s for _, row in mine}):
            chosen = [pair for pair in mine if pair[1].delay_s == delay]
            out.setdefault(name, {})[f"{delay:g}"] = _loss(chosen)
    return out


def _loss(pairs: Sequence[tuple[AnswerRow, AnswerRow]]) -> Loss:
    counts: dict[str, list[int]] = {}
    for own, again in pairs:
        forgot, gained, asked = counts.get(video_of(own), (0, 0, 0))
        right = bool(own.correct), bool(again.correct)
        counts[video_of(own)] = [
            forgot + (right == (True, False)),
            gained + (right == (False, True)),
            asked + 1,
        ]
    forgotten, gains, all_asked = np.array(list(counts.values()), dtype=np.int64).T
    change = clustered_difference(forgotten, gains, all_asked)
    return Loss(score([again for _, again in pairs]), score([own for own, _ in pairs]), change)


def score(rows: Sequence[AnswerRow]) -> Score:
    """Count the right answers among rows that have one."""
    chances = [row.chance for row in rows if row.chance is not None]
    chance = sum(chances) / len(chances) if rows and len(chances) == len(rows) else None
    videos = [[bool(row.correct) for row in part] for _, part in _parts(rows, video_of)]
    by_video = tuple((sum(right), len(right)) for right in videos)
    return Score(sum(right for right, _ in by_video), len(rows), chance, by_video)


def _parts(rows: Sequence[AnswerRow], key: Callable[[AnswerRow], str]) -> list[tuple[str, list[AnswerRow]]]:
    found: dict[str, list[AnswerRow]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.items())


def _scores(rows: Sequence[AnswerRow], key: Callable[[AnswerRow], str]) -> dict[str, Score]:
    return {name: score(part) for name, part in sorted(_parts(rows, key))}
