"""A sweep's cells against one of them, on the same questions."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.errors import InputError
from hermes.evaluation.compare import Difference, compare_runs
from hermes.evaluation.sweep import Cell, Outcome

__all__ = ["paired_differences", "write_paired"]

# Label of a cell -> category (and "all") -> the cell less its baseline.
Paired = dict[str, dict[str, Difference]]


def paired_differences(outcomes: Sequence[Outcome], folder: Path, baseline: str) -> Paired:
    """Every cell less the one named ``baseline`` that has the same values of the sweep's axes.

    Source: this project.

    Args:
        outcomes: of all cells; those that failed, or whose baseline did, are left out.
        folder: of the sweep, with the rows of each cell.
        baseline: the name of a cell.

    Raises:
        InputError: no cell has this name, or a cell was asked other questions.
    """
    bases = {_axes(one.cell): one for one in outcomes if one.cell.values.get(baseline) == ""}
    if not bases:
        names = dict.fromkeys(key for one in outcomes for key, value in one.cell.values.items() if not value)
        raise InputError(f"baseline: got {baseline!r}; allowed: the cells {', '.join(names)}")
    found: Paired = {}
    for one in outcomes:
        base = bases.get(_axes(one.cell))
        if base is None or base is one or one.record is None or base.record is None:
            continue
        compared = compare_runs(*(folder / "cells" / run.cell.hash for run in (base, one)))
        found[one.cell.label] = {**compared.by_category, "all": compared.overall}
    return found


def _axes(cell: Cell) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, value) for key, value in cell.values.items() if value))


def write_paired(found: Mapping[str, Mapping[str, Difference]], folder: Path, baseline: str) -> str:
    """Write ``paired.csv`` and ``paired.png``; returns the table for the page, Markdown.

    Source: this project.
    """
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    with (folder / "paired.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "category", "n", "videos", "difference", "low", "high", "p"])
        for label, row in found.items():
            for name, one in row.items():
                numbers = (one.difference, one.interval.low, one.interval.high, one.p)
                writer.writerow([label, name, one.n, one.videos, *(f"{x:.5f}" for x in numbers)])
    _plot(found, names, folder / "paired.png", baseline)
    lines = ["| cell | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in found.items():
        cells = [_points(row[name]) if name in row else "-" for name in names]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    text = (
        f"Points more (+) or less (-) than `{baseline}` on the same questions, with paired 95 % intervals, "
        "clustered by video; bold where they leave out 0.\n\n![Differences by cell](paired.png)\n\n"
    )
    return text + "\n".join(lines)


def _points(one: Difference) -> str:
    low, high = 100 * one.interval.low, 100 * one.interval.high
    text = f"{100 * one.difference:+.1f} ({low:+.0f} to {high:+.0f})"
    return f"**{text}**" if one.told else text


def _plot(
    found: Mapping[str, Mapping[str, Difference]], names: Sequence[str], path: Path, baseline: str
) -> None:
    """One panel a category, one line a cell: its difference with the interval, filled where it is told."""
    from matplotlib.figure import Figure

    size = (1.6 + 1.9 * len(names), 1.3 + 0.3 * len(found))
    figure = Figure(figsize=size, layout="constrained")
    panels: Any = figure.subplots(1, len(names), sharey=True, sharex=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.axvline(0, color="#777777", lw=1)
        for place, row in enumerate(found.values()):
            if name not in row:
                continue
            one = row[name]
            ends = ((100 * one.interval.low, 100 * one.interval.high), (place, place))
            axes.plot(*ends, color="#0072B2", lw=1.6)
            face = "#0072B2" if one.told else "white"
            axes.plot(100 * one.difference, place, "o", color="#0072B2", mfc=face, ms=5)
        axes.set_title(name, fontsize=10)
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(found)), [label.replace("policy.", "") for label in found])
    panels[0].set(ylim=(len(found) - 0.5, -0.5))
    figure.supxlabel(f"points more or less than {baseline}, 95 % interval", fontsize=10)
    figure.savefig(path, dpi=120)
