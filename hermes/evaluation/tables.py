"""A sweep's outcomes as one table and one plot."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.evaluation.paired import paired_differences, write_paired
from hermes.evaluation.summary import grouped
from hermes.evaluation.sweep import Cell, Outcome

__all__ = ["plot_sweep", "sweep_rows", "write_sweep"]

# Colours that stay apart for every reader (Okabe and Ito), with marks that stay apart in grey.
_STYLES = (
    *(("#000000", "o"), ("#E69F00", "s"), ("#0072B2", "^"), ("#009E73", "D")),
    *(("#D55E00", "v"), ("#56B4E9", "P"), ("#CC79A7", "X"), ("#777777", "*")),
)


def sweep_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One line for each group of each cell: its values, the group, n, accuracy, interval and chance.

    Source: this project.
    """
    out = []
    for outcome in outcomes:
        if outcome.record is None:
            continue
        values = _values(outcome.cell)
        for group, name, score in grouped(outcome.record):
            numbers = {key: score[key] for key in ("n", "right", "accuracy", "low", "high", "chance")}
            out.append({**values, "group": group, "name": name, **numbers})
    return out


def _values(cell: Cell) -> dict[str, str]:
    named = [key for key, value in cell.values.items() if not value]
    return {**({"cell": named[0]} if named else {}), **{k: v for k, v in cell.values.items() if v}}


def write_sweep(
    outcomes: Sequence[Outcome], folder: Path, title: str, paper: Mapping[str, Any], baseline: str = ""
) -> Path:
    """Write ``table.csv``, ``table.md`` and ``plot.png``; returns the page.

    Source: this project.

    Args:
        outcomes: of all cells.
        folder: of the sweep.
        title: of the page.
        paper: published numbers, name -> text or numbers, printed beside ours.
        baseline: cell that the others are compared with, in ``paired.csv`` and ``paired.png``.

    Raises:
        InputError: no such cell, or one that was asked other questions.
    """
    rows = sweep_rows(outcomes)
    parts = [f"# {title}\n"]
    if rows:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        plot_sweep(outcomes, folder / "plot.png")
        parts += ["![Accuracy by cell](plot.png)\n", _page(outcomes), ""]
    if baseline and (paired := paired_differences(outcomes, folder, baseline)):
        parts += [write_paired(paired, folder, baseline), ""]
    failed = [outcome for outcome in outcomes if outcome.record is None]
    if failed:
        parts += ["Failed:\n", *(f"- {outcome.cell.label}: {outcome.error}" for outcome in failed), ""]
    if paper:
        parts += ["Published:\n", *(f"- {name}: {value}" for name, value in paper.items()), ""]
    path = folder / "table.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _page(outcomes: Sequence[Outcome]) -> str:
    done = [outcome for outcome in outcomes if outcome.record is not None]
    keys = list(dict.fromkeys(key for outcome in done for key in _values(outcome.cell)))
    records = [outcome.record or {} for outcome in done]
    names = list(dict.fromkeys(name for record in records for name in record["by_category"]))
    head = [*keys, *names, "all"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for outcome, record in zip(done, records, strict=True):
        values = _values(outcome.cell)
        scores = [*(record["by_category"].get(name) for name in names), record["overall"]]
        cells = [*(values.get(key, "") for key in keys), *map(_score, scores)]
        lines.append("| " + " | ".join(cells) + " |")
    asked = [_asked(records[0]["by_category"].get(name)) for name in names] + [_asked(records[0]["overall"])]
    lines.append("| " + " | ".join([*([""] * (len(keys) - 1)), "*questions; chance %*", *asked]) + " |")
    return "\n".join(["Per cent right, with 95 % intervals.\n", *lines])


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    low, high = 100 * score["low"], 100 * score["high"]
    return f"{100 * score['accuracy']:.1f} ({low:.0f}-{high:.0f})"


def _asked(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    chance = "-" if score["chance"] is None else f"{100 * score['chance']:.0f}"
    return f"{score['n']}; {chance}"


def plot_sweep(outcomes: Sequence[Outcome], path: Path) -> None:
    """One panel a category: accuracy with intervals, against the numeric axis if there is one.

    Source: this project.
    """
    from matplotlib.figure import Figure

    done = [outcome for outcome in outcomes if outcome.record is not None]
    names = list(dict.fromkeys(name for outcome in done for name in (outcome.record or {})["by_category"]))
    panels = [*names, "all"] if len(names) > 1 else ["all"]
    axis = _numeric_axis([outcome.cell for outcome in done])
    lines: dict[str, list[Outcome]] = {}
    for outcome in done:
        rest = {key: value for key, value in outcome.cell.values.items() if key != axis}
        lines.setdefault(" ".join(f"{k}={v}" if v else k for k, v in rest.items()), []).append(outcome)
    figure = Figure(figsize=(max(4.0, 2.9 * len(panels)), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, name in zip(axes, panels, strict=True):
        for i, (label, group) in enumerate(lines.items()):
            scores = [_group(outcome, name) for outcome in group]
            places = (
                [float(outcome.cell.values[axis]) for outcome in group] if axis else [float(i)] * len(group)
            )
            points = sorted((x, score) for x, score in zip(places, scores, strict=True) if score is not None)
            _draw(panel, points, _STYLES[i % len(_STYLES)], label, joined=axis is not None)
        panel.set(title=name, xlabel=axis or "cell", ylim=(0, 103))
        if axis is None:
            panel.set_xticks([])
    axes[0].set(ylabel="right (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)


def _group(outcome: Outcome, name: str) -> tuple[float, float, float] | None:
    record = outcome.record or {}
    score = record["overall"] if name == "all" else record["by_category"].get(name)
    return None if score is None else (100 * score["accuracy"], 100 * score["low"], 100 * score["high"])


def _draw(panel: Any, points: Sequence[Any], style: tuple[str, str], label: str, *, joined: bool) -> None:
    x, scores = [place for place, _ in points], [score for _, score in points]
    middle = [score[0] for score in scores]
    spread = [[score[0] - score[1] for score in scores], [score[2] - score[0] for score in scores]]
    line = "-" if joined else "none"
    panel.errorbar(
        x, middle, yerr=spread, color=style[0], marker=style[1], linestyle=line, label=label, capsize=2
    )


def _numeric_axis(cells: Sequence[Cell]) -> str | None:
    """The setting with the most values that are all numbers."""
    best, most = None, 1
    for key in dict.fromkeys(key for cell in cells for key in cell.values):
        values = {cell.values.get(key, "") for cell in cells}
        if len(values) > most and all(_is_number(value) for value in values):
            best, most = key, len(values)
    return best


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
