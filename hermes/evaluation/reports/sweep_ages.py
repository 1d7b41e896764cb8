"""What a sweep's runs remember of the past: accuracy by the age of the evidence, as tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hermes.evaluation.reports.sweep_plots import FEW, draw_line, line_name, numeric_axis, places_of
from hermes.evaluation.reports.sweep_sections import as_score, fewer
from hermes.evaluation.scoring.summary import youngest
from hermes.evaluation.sweeps.running import Outcome
from hermes.pages.markdown import Markdown, escape, table
from hermes.pages.styles import STYLES, Style, draw_grid, save_figure
from hermes.pages.text import in_figure

__all__ = ["ages"]

_Scores = Mapping[str, Mapping[str, Any]]


class _Block(NamedTuple):
    """A category at one value of the numeric setting: its ages in order, and every run's scores."""

    category: str
    place: str
    names: list[str]
    lines: dict[str, _Scores]


def ages(done: Sequence[Outcome], path: Path) -> str:
    """Accuracy by age of the evidence, a table for each category and value of the numeric setting.

    Categories that ask about the present alone have no ages to compare and are left out; so are ages of fewer
    than :data:`FEW` questions. The plot has a line a run, and is not drawn where lines are too many to be
    told apart.

    Args:
        done: outcomes.
        path: of the picture.

    Returns:
        the section; empty where there is nothing to show.
    """
    axis = numeric_axis([outcome.cell for outcome in done])
    blocks = _blocks(done, axis)
    if not blocks:
        return ""
    parts = [
        "## Age of the evidence\n\nPer cent right by how long before the question the evidence was last on "
        f"screen, with 95 % intervals; ages of fewer than {FEW} questions are left out."
    ]
    lines = list(dict.fromkeys(line for block in blocks for line in block.lines))
    if len(lines) <= len(STYLES):
        _plot(blocks, axis, dict(zip(lines, STYLES, strict=False)), path)
        parts.append(f"![Accuracy by age of the evidence]({path.name})")
    for block in blocks:
        head = ["", *(f"{name} s" for name in block.names)]
        first = next(iter(block.lines.values()))
        rows = [
            [
                line,
                *(
                    as_score(scores.get(name)) + fewer(scores.get(name), first.get(name))
                    for name in block.names
                ),
            ]
            for line, scores in block.lines.items()
        ]
        rows.append(
            [
                Markdown("*questions*"),
                *(str(first[name]["n"]) if name in first else "-" for name in block.names),
            ]
        )
        parts.append(f"**{escape(_title(block, axis))}**\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def _title(block: _Block, axis: str | None) -> str:
    if axis is None:
        return block.category
    return f"{block.category}, {axis}={block.place}" if block.place else f"{block.category}, without {axis}"


def _blocks(done: Sequence[Outcome], axis: str | None) -> list[_Block]:
    categories = list(dict.fromkeys(name for o in done for name in (o.record or {}).get("by_age", {})))
    places = [""] if axis is None else places_of([outcome.cell for outcome in done], axis)
    out = []
    for category in categories:
        for place in places:
            lines: dict[str, _Scores] = {}
            for outcome in done:
                found = (outcome.record or {}).get("by_age", {}).get(category)
                if found and outcome.cell.values.get(axis or "", "") == place:
                    enough = {age: score for age, score in found.items() if score["n"] >= FEW}
                    lines[line_name(outcome.cell, axis) or "all"] = enough
            names = sorted({age for scores in lines.values() for age in scores}, key=youngest)
            if len(names) > 1:
                out.append(_Block(category, place, names, lines))
    return out


def _plot(blocks: Sequence[_Block], axis: str | None, styles: Mapping[str, Style], path: Path) -> None:
    from matplotlib.figure import Figure

    categories = list(dict.fromkeys(block.category for block in blocks))
    places = list(dict.fromkeys(block.place for block in blocks))
    # A row a category; without places to set side by side, all of them in one.
    rows, columns = (len(categories), len(places)) if len(places) > 1 else (1, len(categories))
    figure = Figure(figsize=(max(4.5, 3 * columns), 0.8 + 2.6 * rows), layout="constrained")
    areas = figure.subplots(rows, columns, squeeze=False)
    for area in areas.ravel():
        area.set_visible(False)
    begun: set[int] = set()
    shown: dict[str, Any] = {}
    for block in blocks:
        row, column = categories.index(block.category), places.index(block.place)
        row, column = (row, column) if len(places) > 1 else (0, row)
        area = areas[row, column]
        area.set_visible(True)
        for number, (line, scores) in enumerate(block.lines.items()):
            # Beside each other, so that no interval hides another.
            shift = 0.5 * ((number + 0.5) / len(block.lines) - 0.5)
            points = [
                (at + shift, tuple(100 * scores[name][key] for key in ("accuracy", "low", "high")))
                for at, name in enumerate(block.names)
                if name in scores
            ]
            draw_line(area, points, styles[line], line)
        area.set_xticks(range(len(block.names)), list(map(in_figure, block.names)))
        area.set_title(in_figure(_title(block, axis and axis.rpartition(".")[2])), fontsize="medium")
        area.set(xlabel="age of the evidence (s)", ylim=(0, 103))
        # One scale for all: numbers at the first of a row, which may lack a place.
        area.set_ylabel("right (%)" if row not in begun else "")
        area.tick_params(labelleft=row not in begun)
        begun.add(row)
        draw_grid(area, "y")
        shown |= dict(zip(*reversed(area.get_legend_handles_labels()), strict=True))
    if len(shown) > 1:
        figure.legend(shown.values(), shown, loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)
