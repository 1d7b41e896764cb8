"""Plots of a run; every one reads without colour, and has a table beside it in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from hermes.evaluation.scoring.summary import Score, youngest
from hermes.pages.styles import BLUE, GREY, STYLES, Style, draw_grid, save_figure
from hermes.pages.text import in_figure

__all__ = ["plot_accuracy", "plot_ages", "plot_calibration", "plot_times"]


_POINTS = Style(BLUE, "o", "")


def plot_accuracy(path: Path, scores: Mapping[str, Score]) -> None:
    """Accuracy of each category with its interval, and that of a guess."""
    figure = Figure(figsize=(7.5, 1.2 + 0.38 * len(scores)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(scores))
    _intervals(axes, list(scores.values()), rows, label="right, 95 % interval", horizontal=True)
    chances = [(100 * s.chance, row) for s, row in zip(scores.values(), rows, strict=True) if s.chance]
    if chances:
        axes.plot(*zip(*chances, strict=True), "|", color="black", ms=13, mew=1.6, label="chance")
    axes.set_yticks(rows, [in_figure(f"{name} ({s.n})") for name, s in scores.items()])
    axes.set(xlim=(0, 101), ylim=(len(scores) - 0.5, -0.5), xlabel="right answers (%)")
    draw_grid(axes, "x")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    save_figure(figure, path, 130)


def plot_ages(path: Path, by_age: Mapping[str, Mapping[str, Score]]) -> None:
    """Accuracy of each category by the age of the evidence, as in ``Summary.by_age``."""
    names = sorted({age for ages in by_age.values() for age in ages}, key=youngest)
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, (category, ages) in enumerate(by_age.items()):
        # Beside each other, so that no interval hides another.
        shift = 0.5 * ((index + 0.5) / len(by_age) - 0.5)
        x = np.array([names.index(age) for age in ages]) + shift
        _intervals(axes, list(ages.values()), x, label=in_figure(category), style=STYLES[index % len(STYLES)])
    axes.set_xticks(range(len(names)), list(map(in_figure, names)))
    axes.set(xlabel="age of the evidence (s)", ylabel="right answers (%)", ylim=(0, 101))
    draw_grid(axes, "y")
    figure.legend(loc="outside upper center", ncols=min(len(by_age), 4), frameon=False)
    save_figure(figure, path, 130)


def plot_times(path: Path, times: Float[np.ndarray, " N"]) -> None:
    """Distribution of the time to first token, ms."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    median, late = np.percentile(times, (50, 95))
    low, high = max(float(times.min()), 1e-3), max(float(times.max()), 2e-3)
    wide = high > 10 * low
    edges = np.geomspace(low, high, 41) if wide else np.linspace(0, 1.02 * high, 41)
    axes.hist(times, bins=edges.tolist(), color="#9ecae1", edgecolor="#4d4d4d", linewidth=0.5)
    axes.axvline(median, color="black", linewidth=1.5, label=f"median, {median:.1f} ms")
    axes.axvline(late, color="black", linewidth=1.5, linestyle="--", label=f"95 % below {late:.1f} ms")
    axes.set(xlabel="time to first token (ms)", ylabel="answers", xscale="log" if wide else "linear")
    if wide:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    save_figure(figure, path, 130)


def plot_calibration(path: Path, bins: Sequence[tuple[float, Score]]) -> None:
    """Accuracy against mean confidence, from ``(mean confidence, score)`` of each bin."""
    figure = Figure(figsize=(5, 5.6), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    x = np.array([100 * mean for mean, _ in bins])
    axes.plot((0, 100), (0, 100), color=GREY, linestyle="--", label="calibrated")
    _intervals(axes, [s for _, s in bins], x, label="this run, 95 % interval", style=STYLES[0])
    axes.set(ylabel="right answers (%)", xlim=(0, 101), ylim=(0, 101))
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    counts.bar(x, [s.n for _, s in bins], width=4, color="#9ecae1", edgecolor="#4d4d4d")
    counts.set(xlabel="probability of the option chosen, mean of each tenth (%)", ylabel="answers")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    save_figure(figure, path, 130)


def _intervals(
    axes: Axes,
    scores: Sequence[Score],
    at: np.ndarray,
    *,
    label: str,
    style: Style = _POINTS,
    horizontal: bool = False,
) -> None:
    """Points with their intervals, in per cent."""
    middle = np.array([100 * s.accuracy for s in scores])
    ends = 100 * np.array([s.interval for s in scores]).T
    # Rounding may put an end a hair beyond the point.
    error = np.maximum(np.stack([middle - ends[0], ends[1] - middle]), 0)
    x, y, xerr, yerr = (middle, at, error, None) if horizontal else (at, middle, None, error)
    colour, mark, line = style
    axes.errorbar(
        x, y, xerr=xerr, yerr=yerr, color=colour, marker=mark, linestyle=line, capsize=3, lw=1.5, label=label
    )
