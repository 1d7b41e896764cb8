"""Plots of a sweep: accuracy and costs along a setting or by cell, and what is lost with a delay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hermes.evaluation.measures import MEASURES

if TYPE_CHECKING:
    from hermes.evaluation.sweep import Cell, Outcome

__all__ = ["FEW", "plot_losses", "plot_sweep"]

# Colours that stay apart for every reader (Okabe and Ito), with marks that stay apart in grey.
STYLES = (
    *(("#000000", "o"), ("#E69F00", "s"), ("#0072B2", "^"), ("#009E73", "D")),
    *(("#D55E00", "v"), ("#56B4E9", "P"), ("#CC79A7", "X"), ("#777777", "*")),
)
# With fewer questions a point says nothing.
FEW = 10


class _Panel(NamedTuple):
    """What one panel shows: its title, the axis's name, and how a record tells middle, low and high."""

    title: str
    unit: str
    measure: str = ""

    def read(self, record: Any) -> tuple[float, float, float] | None:
        if self.measure:
            cost = record.get("costs", {}).get(self.measure)
            # The bar reaches from the median to the 95th percentile.
            return (
                None if cost is None else (cost["median"], cost["median"], max(cost["high"], cost["median"]))
            )
        score = record["overall"] if self.title == "all" else record["by_category"].get(self.title)
        if score is None or not score["n"]:
            return None
        return 100 * score["accuracy"], 100 * score["low"], 100 * score["high"]


def plot_sweep(outcomes: Sequence[Outcome], path: Path, measures: Sequence[str] = ()) -> None:
    """One panel a category and measure, against the numeric setting if there is one, else by cell.

    Source: this project. Bars are 95 % intervals; of a measure, from the median to the 95th percentile.
    """
    done = [outcome for outcome in outcomes if outcome.record is not None]
    names = list(dict.fromkeys(name for outcome in done for name in (outcome.record or {})["by_category"]))
    panels = [_Panel(name, "right (%)") for name in ([*names, "all"] if len(names) > 1 else ["all"])]
    panels += [_Panel(MEASURES[name][0].partition(" (")[0], MEASURES[name][0], name) for name in measures]
    axis = _numeric_axis([outcome.cell for outcome in done])
    lines = {tuple((k, v) for k, v in outcome.cell.values.items() if k != axis) for outcome in done}
    # More lines than styles could not be told apart.
    if axis is None or len(lines) > len(STYLES):
        _by_cell(done, panels, path)
    else:
        _along(done, panels, axis, path)


def _by_cell(done: Sequence[Outcome], panels: Sequence[_Panel], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 + 1.9 * len(panels), 1.1 + 0.3 * len(done)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for area, panel in zip(axes, panels, strict=True):
        for i, outcome in enumerate(done):
            found = panel.read(outcome.record)
            if found is not None:
                middle, low, high = found
                error = [[max(middle - low, 0)], [max(high - middle, 0)]]
                area.errorbar(middle, i, xerr=error, color="#0072B2", marker="o", capsize=2, linestyle="none")
        first = panel.read(done[0].record)
        if first is not None:
            # The first cell, so that the others can be read against it.
            area.axvline(first[0], color="#777777", linewidth=0.8, linestyle=":")
        area.set(title=panel.title, xlabel=panel.unit)
        area.set_xlim(*((0, 103) if not panel.measure else (0, None)))
        area.grid(axis="x", color="#dddddd")
        area.set_axisbelow(True)
    axes[0].set_yticks(range(len(done)), [outcome.cell.label or "all" for outcome in done])
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=120)


def _along(done: Sequence[Outcome], panels: Sequence[_Panel], axis: str, path: Path) -> None:
    from matplotlib.figure import Figure

    lines: dict[str, list[Outcome]] = {}
    for outcome in done:
        rest = {key: value for key, value in outcome.cell.values.items() if key != axis}
        lines.setdefault(_say(rest), []).append(outcome)
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(4.5, 3 * columns), 0.6 + 2.9 * rows), layout="constrained")
    areas = figure.subplots(rows, columns, squeeze=False).ravel()
    for area in areas[len(panels) :]:
        area.set_visible(False)
    for area, panel in zip(areas, panels, strict=False):
        for i, (label, group) in enumerate(lines.items()):
            # Cells outside the product may have no place on the axis.
            placed = [outcome for outcome in group if axis in outcome.cell.values]
            values = [(float(o.cell.values[axis]), panel.read(o.record)) for o in placed]
            points = sorted((x, found) for x, found in values if found is not None)
            _draw(area, points, STYLES[i % len(STYLES)], label)
            for outcome in group:
                found = panel.read(outcome.record) if axis not in outcome.cell.values else None
                if found is not None:
                    colour = STYLES[i % len(STYLES)][0]
                    area.axhline(found[0], color=colour, linestyle="--", linewidth=1, label=label)
        area.set(title=panel.title, xlabel=axis, ylabel=panel.unit)
        area.set_ylim(*((0, 103) if not panel.measure else (0, None)))
        area.grid(axis="y", color="#dddddd")
        area.set_axisbelow(True)
    handles, labels = areas[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)


def _say(values: dict[str, str]) -> str:
    """A line's name: the values alone where it is clear what they are of."""
    if len(values) == 1:
        key, value = next(iter(values.items()))
        return value or key
    return " ".join(f"{key.rpartition('.')[2]}={value}" if value else key for key, value in values.items())


def _draw(area: Any, points: Sequence[Any], style: tuple[str, str], label: str) -> None:
    if not points:
        return
    x, scores = [place for place, _ in points], [score for _, score in points]
    middle = [score[0] for score in scores]
    spread = [
        [max(score[0] - score[1], 0) for score in scores],
        [max(score[2] - score[0], 0) for score in scores],
    ]
    area.errorbar(
        x, middle, yerr=spread, color=style[0], marker=style[1], markersize=4, lw=1.3, label=label, capsize=2
    )


def plot_losses(outcomes: Sequence[Outcome], path: Path) -> None:
    """Change of accuracy against the delay, one panel a category, one line a cell.

    Source: this project. Points of fewer than :data:`FEW` questions are left to the table.
    """
    from matplotlib.figure import Figure

    done = [outcome for outcome in outcomes if (outcome.record or {}).get("by_delay")]
    shown = [
        (name, losses) for outcome in done for name, losses in (outcome.record or {})["by_delay"].items()
    ]
    names = list(dict.fromkeys(name for name, found in shown if any(x["n"] >= FEW for x in found.values())))
    if not names:
        return
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(4.5, 3 * columns), 0.6 + 2.9 * rows), layout="constrained")
    areas = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for area in areas[len(names) :]:
        area.set_visible(False)
    for area, name in zip(areas, names, strict=False):
        for i, outcome in enumerate(done):
            losses = (outcome.record or {})["by_delay"].get(name, {})
            points = [(0.0, (0.0, 0.0, 0.0))]
            for delay, loss in losses.items():
                if loss["n"] < FEW:
                    continue
                change = loss["change"]
                values = [100 * change[key] for key in ("difference", "low", "high")]
                points.append((float(delay), (values[0], values[1], values[2])))
            # Beside each other, so that no interval hides another.
            shift = 0.012 * (i - len(done) / 2) * max(x for x, _ in points)
            moved = [(x + shift * (x > 0), found) for x, found in sorted(points)]
            _draw(area, moved, STYLES[i % len(STYLES)], _say(dict(outcome.cell.values)))
        area.axhline(0, color="#777777", linewidth=0.8, linestyle=":")
        area.set(title=name, xlabel="asked again after (s)", ylabel="change (points)")
        area.grid(axis="y", color="#dddddd")
        area.set_axisbelow(True)
    handles, labels = areas[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)


def _numeric_axis(cells: Sequence[Cell]) -> str | None:
    """The setting with the most values, three or more, that are all numbers; two make no line."""
    best, most = None, 2
    for key in dict.fromkeys(key for cell in cells for key in cell.values):
        values = {cell.values[key] for cell in cells if cell.values.get(key)}
        if len(values) > most and all(_is_number(value) for value in values):
            best, most = key, len(values)
    return best


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
