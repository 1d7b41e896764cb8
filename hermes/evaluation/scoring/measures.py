"""What a run comes to besides accuracies of questions: means over tasks and categories, and costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hermes.evaluation.results.rows import AnswerRow, category, video_of
from hermes.evaluation.scoring.statistics import FEW_VIDEOS, Interval, tails

__all__ = ["MEASURES", "Average", "Cost", "averages", "costs"]


class Average(NamedTuple):
    """A mean of accuracies with its 95 % interval over videos; doubtful where they are few."""

    value: float
    low: float
    high: float
    doubtful: bool = False

    @property
    def span(self) -> str:
        """The interval in per cent, with a star if it is doubtful."""
        return Interval(self.low, self.high, self.doubtful).span()

    def record(self) -> dict[str, float]:
        """As plain values for JSON."""
        return self._asdict()


class Cost(NamedTuple):
    """Median, mean and 95th percentile of something measured at every question."""

    median: float
    mean: float
    high: float

    def record(self) -> dict[str, float]:
        """As plain values for JSON."""
        return self._asdict()


# What is measured at every question: name -> its heading with the unit, and how a row tells it.
MEASURES: Mapping[str, tuple[str, Callable[[AnswerRow], float | None]]] = MappingProxyType(
    {
        "ttft": ("TTFT (ms)", lambda row: row.ttft_ms),
        "tpot": ("TPOT (ms)", lambda row: row.tpot_ms),
        "frame": ("a frame (ms)", lambda row: row.frame_ms),
        "lag": ("lag (s)", lambda row: row.lag_s),
        "stale": ("newest frame (s old)", lambda row: row.stale_s),
        "frames": ("frames seen", lambda row: float(row.frames_seen)),
        "tokens": ("tokens a layer", lambda row: _mean(row.tokens_per_layer)),
        "read": ("tokens read a layer", lambda row: row.tokens_read),
        "memory": ("memory (kB)", lambda row: row.memory_bytes / 1e3),
        "archive": ("archive (kB)", lambda row: row.archived_bytes / 1e3 if row.archived_bytes else None),
    }
)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def costs(rows: Sequence[AnswerRow]) -> dict[str, Cost]:
    """What the answers took, of every measure that has values."""
    out = {}
    for name, (_, read) in MEASURES.items():
        values = [value for row in rows if (value := read(row)) is not None]
        if values:
            middle, high = np.percentile(values, (50, 95))
            out[name] = Cost(float(middle), float(np.mean(values)), float(high))
    return out


def averages(rows: Sequence[AnswerRow], resamples: int = 2000, seed: int = 0) -> dict[str, Average]:
    """Means over tasks and over categories, as benchmarks define theirs.

    Source: OVO-Bench, arXiv 2501.05510 (a category is the mean of its tasks), MVBench, arXiv 2311.17005 (the
    mean of all tasks). With the categories real-time and backward the mean of categories is the (RT+BT)/2 of
    arXiv 2601.14724, and not OVO-Bench's own figure, which has forward tasks besides. Intervals: bootstrap
    over videos.

    Args:
        rows: with a right answer, each at its own time.
        resamples: of the bootstrap.
        seed: of it.

    Returns:
        ``tasks``: the mean over tasks; ``tasks of NAME`` of a category that has several; ``categories``: the
        mean of categories. Nothing where there is one task only.
    """
    cells = list(dict.fromkeys((category(row), row.task) for row in rows))
    if len(cells) < 2:
        return {}
    videos = {name: i for i, name in enumerate(dict.fromkeys(map(video_of, rows)))}
    asked = np.zeros((len(videos), len(cells)))
    right = np.zeros_like(asked)
    for row in rows:
        place = videos[video_of(row)], cells.index((category(row), row.task))
        asked[place] += 1
        right[place] += bool(row.correct)
    draws = np.random.default_rng(seed).multinomial(
        len(videos), np.full(len(videos), 1 / len(videos)), resamples
    )
    drawn = np.concatenate([np.ones((1, len(videos))), draws])
    # [1 + resamples, cells]; a task that a draw leaves out counts in no mean of it.
    with np.errstate(invalid="ignore"):
        accuracy = (drawn @ right) / (drawn @ asked)
    parts = {
        name: [i for i, (other, _) in enumerate(cells) if other == name]
        for name in dict.fromkeys(name for name, _ in cells)
    }
    means = {name: _mean_of_asked(accuracy[:, places]) for name, places in parts.items()}
    found = {"tasks": _mean_of_asked(accuracy)}
    if len(parts) > 1 and any(len(places) > 1 for places in parts.values()):
        found |= {f"tasks of {name}": mean for name, mean in means.items() if len(parts[name]) > 1}
        found["categories"] = np.mean(list(means.values()), axis=0)
    # One video tells nothing of the spread.
    many, few = len(videos) > 1, len(videos) < FEW_VIDEOS
    ends = {
        name: np.nanquantile(mean[1:], tails(len(videos))) if many else (0, 1) for name, mean in found.items()
    }
    return {
        name: Average(float(mean[0]), float(ends[name][0]), float(ends[name][1]), few)
        for name, mean in found.items()
    }


def _mean_of_asked(accuracy: Float[np.ndarray, "D T"]) -> Float[np.ndarray, " D"]:
    """Of each draw, over the tasks that it has; NaN where it has none."""
    there = ~np.isnan(accuracy)
    count = there.sum(axis=1)
    total = np.where(there, accuracy, 0).sum(axis=1)
    mean: Float[np.ndarray, " D"] = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return mean
