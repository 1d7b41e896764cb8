"""Accuracies of a run: overall, by kind of question and by age of the evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hermes.evaluation.rows import Row
from hermes.evaluation.statistics import wilson

__all__ = ["Score", "Summary", "age_bin", "summarise"]


class Score(NamedTuple):
    """Right answers among ``n``, and the accuracy that guessing would have (None: unknown).

    Source: this project.

    >>> Score(8, 10, 0.25).accuracy, [round(x, 2) for x in Score(8, 10, 0.25).interval]
    (0.8, [0.49, 0.94])
    """

    right: int
    n: int
    chance: float | None

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.right / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.right, self.n)

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        low, high = self.interval
        return {**self._asdict(), "accuracy": self.accuracy, "low": low, "high": high}


class Summary(NamedTuple):
    """Scores of a run; ``unscored`` questions have no answer in the benchmark.

    Source: this project.

    Attributes:
        by_age: of each category, by age of the evidence in seconds, ``"8-16"`` from 8 to below 16.
    """

    overall: Score
    by_category: dict[str, Score]
    by_kind: dict[str, Score]
    by_age: dict[str, dict[str, Score]]
    unscored: int

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
            "unscored": self.unscored,
        }


def age_bin(seconds: float) -> str:
    """The age's bin: below a second, then each twice as long as the one before.

    Source: this project.

    >>> [age_bin(age) for age in (0, 1, 3, 8, 100)]
    ['0-1', '1-2', '2-4', '8-16', '64-128']
    """
    low, high = 0, 1
    while seconds >= high:
        low, high = high, 2 * high
    return f"{low}-{high}"


def summarise(rows: Iterable[Row]) -> Summary:
    """Count the right answers of a run.

    Source: this project.
    """
    everything = list(rows)
    scored = [row for row in everything if row.correct is not None]
    aged = [row for row in scored if row.age_s is not None]
    ages = {
        name: _scores(part, lambda row: age_bin(row.age_s or 0.0)) for name, part in _parts(aged, _category)
    }
    return Summary(
        overall=_score(scored),
        by_category=_scores(scored, _category),
        by_kind=_scores(scored, lambda row: row.kind + (" (choice)" if row.choices else "")),
        by_age={
            name: dict(sorted(found.items(), key=lambda item: float(item[0].partition("-")[0])))
            for name, found in ages.items()
        },
        unscored=len(everything) - len(scored),
    )


def _category(row: Row) -> str:
    return row.category or row.task


def _parts(rows: list[Row], key: Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.items())


def _scores(rows: list[Row], key: Callable[[Row], str]) -> dict[str, Score]:
    return {name: _score(part) for name, part in sorted(_parts(rows, key))}


def _score(rows: list[Row]) -> Score:
    chances = [row.chance for row in rows if row.chance is not None]
    chance = sum(chances) / len(chances) if rows and len(chances) == len(rows) else None
    return Score(sum(bool(row.correct) for row in rows), len(rows), chance)
