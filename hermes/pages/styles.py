"""How plots look; lines are told apart by colour, and by mark and dash where there is no colour."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from hermes.files import write_whole

__all__ = ["BLUE", "GREY", "STYLES", "Style", "draw_grid", "save_figure", "save_with_legend"]

# Pixels a side; beyond some 65 000 no picture can be drawn.
_MOST_PIXELS = 20_000

BLUE, GREY = "#0072B2", "#777777"


class Style(NamedTuple):
    """Colour, mark and dash of a line, as matplotlib names them."""

    colour: str
    mark: str
    dash: str


# Colours that stay apart for every reader (Okabe and Ito).
STYLES = (
    Style(BLUE, "o", "-"),
    Style("#D55E00", "D", "--"),
    Style("#009E73", "^", "-."),
    Style("#CC79A7", "s", ":"),
    Style("#000000", "v", "-"),
    Style("#E69F00", "P", "--"),
    Style("#56B4E9", "X", "-."),
    Style(GREY, "*", ":"),
)


def draw_grid(axes: Any, axis: str) -> None:
    """Draw faint lines behind what matplotlib's axes show, at the ticks of ``x`` or ``y``."""
    axes.grid(axis=axis, color="#dddddd")
    axes.set_axisbelow(True)


def save_with_legend(figure: Any, axes: Any, path: Path, columns: int = 4) -> None:
    """Save a figure, with a legend of one of its axes below it where that has several lines."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        place = {"loc": "outside lower center", "ncols": columns}
        figure.legend(handles, labels, **place, frameon=False, fontsize="small")
    save_figure(figure, path)


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Save a figure, whole or not at all; letters that its font lacks are drawn as boxes.

    Raises:
        InputError: the file cannot be written.
    """
    with warnings.catch_warnings():
        # Names in any script are data, and stand in the table beside the figure.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from (current )?font")
        warnings.filterwarnings("ignore", message=".*constrained_layout not applied")
        fitting = min(dpi, _MOST_PIXELS / max(figure.get_size_inches()))
        write_whole(path, lambda aside: figure.savefig(aside, dpi=fitting))
