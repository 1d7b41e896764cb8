"""Plots of a sweep: accuracy and costs along a setting or by cell, and what is lost with a delay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hermes.evaluation.scoring.measures import MEASURES
from hermes.pages.styles import GREY, STYLES, Style, draw_grid, save_figure, save_with_legend
from hermes.pages.text import in_figure

if TYPE_CHECKING:
    from hermes.evaluation.sweeps.cells import SweepCell
    from hermes.evaluation.sweeps.running import Outcome

__all__ = [
    "FEW",
    "draw_line",
    "line_name",
    "numeric_axis",
    "places_of",
    "plot_losses",
    "plot_sweep",
    "spread_of",
]

# With fewer questions a point says nothing.
FEW = 10
# Of several marks in a row.
_THIN: Mapping[str, Any] = {"markersize": 4, "elinewidth": 0.8}


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


def plot_sweep(
    outcomes: Sequence[Outcome], path: Path, measures: Sequence[str] = (), *, accuracy: bool = True
) -> None:
    """One panel a category and measure, against the numeric setting if there is one, else by cell.

    Bars are 95 % intervals; of a measure, from the median to the 95th percentile.
    """
    done = [outcome for outcome in outcomes if outcome.record is not None]
    names = list(dict.fromkeys(name for outcome in done for name in (outcome.record or {})["by_category"]))
    shown = [*names, "all"] if len(names) > 1 else ["all"]
    panels = [_Panel(name, "right (%)") for name in shown if accuracy]
    panels += [_Panel(MEASURES[name][0].partition(" (")[0], MEASURES[name][0], name) for name in measures]
    cells = [outcome.cell for outcome in done]
    axis, spread = numeric_axis(cells), spread_of(cells)
    if axis is None or spread is not None or len({line_name(cell, axis) for cell in cells}) > len(STYLES):
        _by_cell(done, panels, path, spread)
    else:
        _along(done, panels, axis, path)


def spread_of(cells: Sequence[SweepCell]) -> str | None:
    """The numeric setting, where lines are too many to be told apart and its values are not.

    Such a sweep is read line by line: a row each, its values side by side.
    """
    axis = numeric_axis(cells)
    if axis is None or len({line_name(cell, axis) for cell in cells}) <= len(STYLES):
        return None
    # One style is for cells that have no place on it.
    return axis if len({cell.values.get(axis) for cell in cells}) < len(STYLES) else None


def line_name(cell: SweepCell, axis: str | None) -> str:
    """What a cell is called on a plot along a setting: its other values.

    Their names are left out where one is alone, and so clear.
    """
    values = {key: value for key, value in cell.values.items() if key != axis}
    if len(values) == 1:
        key, value = next(iter(values.items()))
        return value or key
    return " ".join(f"{key.rpartition('.')[2]}={value}" if value else key for key, value in values.items())


def _by_cell(done: Sequence[Outcome], panels: Sequence[_Panel], path: Path, spread: str | None) -> None:
    """A row a cell; or a row a line, with a mark for each value of the setting it is spread over."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = list(dict.fromkeys(_row(outcome, spread) for outcome in done))
    places = places_of([outcome.cell for outcome in done], spread) if spread else [""]
    figure = Figure(figsize=(2.2 + 1.9 * len(panels), 1.4 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for area, panel in zip(axes, panels, strict=True):
        for outcome in done:
            score = panel.read(outcome.record)
            if score is None:
                continue
            middle, low, high = score
            place = outcome.cell.values.get(spread or "", "")
            # Beside each other, so that no interval hides another.
            beside = 0.7 * ((places.index(place) + 0.5) / len(places) - 0.5)
            style = _style(place, places)
            error = [[max(middle - low, 0)], [max(high - middle, 0)]]
            own = {"color": style.colour, "marker": style.mark, "linestyle": "none"}
            y = rows.index(_row(outcome, spread)) + beside
            area.errorbar(middle, y, xerr=error, **own, **_THIN if spread else {"capsize": 2})
        first = panel.read(done[0].record)
        if first is not None and not spread:
            # The first cell, so that the others can be read against it.
            area.axvline(first[0], color=GREY, linewidth=0.8, linestyle=":")
        area.set(title=in_figure(panel.title), xlabel=panel.unit)
        area.set_xlim(*((0, 103) if not panel.measure else (0, None)))
        draw_grid(area, "x")
        for edge in np.arange(len(rows) - 1) + 0.5 if spread else []:
            area.axhline(edge, color="#eeeeee", linewidth=0.6)
    axes[0].set_yticks(range(len(rows)), list(map(in_figure, rows)))
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    if spread:
        handles = []
        for place in places:
            style, label = _style(place, places), f"{spread}={place}" if place else f"without {spread}"
            handles.append(
                Line2D([], [], color=style.colour, marker=style.mark, ls="none", label=in_figure(label))
            )
        figure.legend(handles=handles, loc="outside upper center", ncols=len(places), frameon=False)
    save_figure(figure, path)


def places_of(cells: Sequence[SweepCell], axis: str) -> list[str]:
    """A numeric setting's values in order; empty text, at last, for cells that have none."""
    return sorted({cell.values.get(axis, "") for cell in cells}, key=lambda place: float(place or "inf"))


def _style(place: str, places: Sequence[str]) -> Style:
    """Of a mark; cells without a place among others are grey."""
    return STYLES[places.index(place)] if place or len(places) == 1 else STYLES[-1]


def _row(outcome: Outcome, spread: str | None) -> str:
    return (line_name(outcome.cell, spread) if spread else outcome.cell.label) or "all"


def _along(done: Sequence[Outcome], panels: Sequence[_Panel], axis: str, path: Path) -> None:
    from matplotlib.figure import Figure

    lines: dict[str, list[Outcome]] = {}
    for outcome in done:
        lines.setdefault(line_name(outcome.cell, axis), []).append(outcome)
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
            draw_line(area, points, STYLES[i % len(STYLES)], label)
            for outcome in group:
                found = panel.read(outcome.record) if axis not in outcome.cell.values else None
                if found is not None:
                    colour = STYLES[i % len(STYLES)].colour
                    area.axhline(found[0], color=colour, linestyle="--", linewidth=1, label=in_figure(label))
        area.set(title=in_figure(panel.title), xlabel=in_figure(axis), ylabel=panel.unit)
        area.set_ylim(*((0, 103) if not panel.measure else (0, None)))
        draw_grid(area, "y")
    save_with_legend(figure, areas[0], path)


def draw_line(area: Any, points: Sequence[Any], style: Style, label: str) -> None:
    """A line through points ``(x, (middle, low, high))``, with their intervals."""
    if not points:
        return
    x, scores = [place for place, _ in points], [score for _, score in points]
    middle = [score[0] for score in scores]
    spread = [
        [max(score[0] - score[1], 0) for score in scores],
        [max(score[2] - score[0], 0) for score in scores],
    ]
    own = {"color": style.colour, "marker": style.mark, "ls": style.dash}
    area.errorbar(x, middle, yerr=spread, **own, markersize=4, lw=1.3, label=in_figure(label), capsize=2)


def plot_losses(lines: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> bool:
    """Change of accuracy against the delay, one panel a category, one line a run.

    Points of fewer than :data:`FEW` questions are left to the table, and so are more lines than can be told
    apart.

    Args:
        lines: a name -> ``by_delay`` of a summary's record.
        path: of the picture.

    Returns:
        whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    shown = [pair for by_delay in lines.values() for pair in by_delay.items()]
    names = list(dict.fromkeys(name for name, found in shown if any(x["n"] >= FEW for x in found.values())))
    if not names or len(lines) > len(STYLES):
        return False
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(4.5, 3 * columns), 0.6 + 2.9 * rows), layout="constrained")
    areas = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for area in areas[len(names) :]:
        area.set_visible(False)
    for area, name in zip(areas, names, strict=False):
        for i, (label, by_delay) in enumerate(lines.items()):
            points = [(0.0, (0.0, 0.0, 0.0))]
            for delay, loss in by_delay.get(name, {}).items():
                if loss["n"] < FEW:
                    continue
                change = loss["change"]
                values = [100 * change[key] for key in ("difference", "low", "high")]
                points.append((float(delay), (values[0], values[1], values[2])))
            # Beside each other, so that no interval hides another.
            shift = 0.012 * (i - (len(lines) - 1) / 2) * max(x for x, _ in points)
            moved = [(x + shift * (x > 0), found) for x, found in sorted(points)]
            draw_line(area, moved, STYLES[i], label)
        area.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        area.set(title=in_figure(name), xlabel="asked again after (s)", ylabel="change (points)")
        draw_grid(area, "y")
    save_with_legend(figure, areas[0], path)
    return True


def numeric_axis(cells: Sequence[SweepCell]) -> str | None:
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
