"""Texts that anybody may have written, as what shows them needs them: nothing in them is obeyed."""

from __future__ import annotations

import re

__all__ = ["clean", "in_figure", "one_line"]

# Controls of terminals and files, other ends of lines, and marks that turn the direction of what follows.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_TURNS = re.compile(r"[\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]")
# Marks of direction that texts in Arabic and Hebrew have; within a page they could reach what stands beside.
_MARKS = re.compile(r"[\u061c\u200e\u200f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    r"""A text without what a terminal would obey; tabs and ends of lines stay.

    >>> clean("a \x1b[31mred\x1b[0m \u202ehat\n")
    'a [31mred[0m hat\n'
    """
    plain = _CONTROLS.sub(lambda match: "".join(one for one in match[0] if one in "\t\n"), text)
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _TURNS.sub("", plain))


def one_line(text: str) -> str:
    r"""A text in a line, of characters that a file in UTF-8 can hold and that a reader sees.

    >>> one_line("two\nlines \ud800")
    'two lines \\ud800'
    """
    written = text.encode("utf-8", "backslashreplace").decode()
    return _MARKS.sub("", _TURNS.sub("", _CONTROLS.sub(" ", written)))


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
