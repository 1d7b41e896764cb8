"""Texts that anybody may have written, as what shows them needs them: nothing in them is obeyed."""

from __future__ import annotations

import re

__all__ = ["in_figure", "one_line"]

# Controls of terminals and files, other ends of lines, and marks that turn the direction of what follows.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_TURNS = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    r"""A text in a line, of characters that a file in UTF-8 can hold and that a reader sees.

    >>> one_line("two\nlines \ud800")
    'two lines \\ud800'
    """
    written = text.encode("utf-8", "backslashreplace").decode()
    return _TURNS.sub("", _CONTROLS.sub(" ", written))


def in_figure(text: str, most: int = 80) -> str:
    r"""A text as a label of matplotlib: dollars are no formula, and a leading underscore hides no line.

    Args:
        text: of data.
        most: characters; what is longer is cut.

    >>> print(in_figure("costs $5 to $9"))
    costs \$5 to \$9
    """
    line = one_line(text)
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    # matplotlib turns each of these back into a dollar where no bare one is left.
    escaped = line.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
