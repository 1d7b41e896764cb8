"""How lines are told apart in every plot: by colour, and by mark and dash where there is no colour."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BLUE", "GREY", "STYLES", "Style"]

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
