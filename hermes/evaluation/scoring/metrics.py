"""What loggers get of a run: accuracies, unreadable answers, calibration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchmetrics.functional.classification import binary_calibration_error

from hermes.dialogue import choice_of
from hermes.evaluation.results.rows import AnswerRow
from hermes.evaluation.scoring.summary import summarise

__all__ = ["calibration_error", "metrics", "unreadable"]


def unreadable(rows: Sequence[AnswerRow]) -> float | None:
    """Share of multiple-choice answers whose generated text names no option; None without any.

    Accuracy does not suffer: the choice is the likeliest letter, whatever is written.
    """
    asked = [row for row in rows if row.choices]
    missing = sum(choice_of(row.answer.lstrip("( "), row.choices) is None for row in asked)
    return missing / len(asked) if asked else None


def calibration_error(rows: Sequence[AnswerRow], bins: int = 10) -> float | None:
    """Expected calibration error of the option probabilities; None without multiple choice.

    Source: Guo et al., arXiv 1706.04599, as torchmetrics computes it.
    """
    judged = [
        (row.probabilities[row.choice], row.correct)
        for row in rows
        if row.probabilities and row.choice is not None and row.correct is not None
    ]
    if not judged:
        return None
    # Of the option chosen alone, so that options that read the same are right together.
    shares, right = (torch.tensor(column, dtype=torch.float64) for column in zip(*judged, strict=True))
    return float(binary_calibration_error(shares, right.long(), n_bins=bins))


def metrics(rows: Sequence[AnswerRow]) -> dict[str, float]:
    """Accuracy overall, by category and by kind, the judge's scores, and the two above."""
    found = summarise(rows)
    rows = [row for row in rows if not row.delay_s]
    out = {"accuracy": found.overall.accuracy} if found.overall.n else {}
    out |= {f"category/{name}": score.accuracy for name, score in found.by_category.items()}
    out |= {f"kind/{name}": score.accuracy for name, score in found.by_kind.items()}
    out |= {f"score/{name}": score.mean for name, score in found.verdicts.scores.items()}
    more = {"unreadable": unreadable(rows), "calibration_error": calibration_error(rows)}
    return out | {name: value for name, value in more.items() if value is not None}
