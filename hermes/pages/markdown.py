"""Pages in Markdown: tables, and parts with an empty line between them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hermes.files import write_text_whole
from hermes.pages.text import one_line

__all__ = ["Markdown", "code", "escape", "fenced", "table", "write_page"]

# What begins a link, an image, code, a formula, emphasis or an emoji; a star or underscore only where it can
# open emphasis, so that "60*" and "data_file" stay as they are.
_SPECIAL = re.compile(
    r"""[\\`\[\]|$]
    | \*(?!\s|$)(?!(?<=[\w%]\*)\))
    | ~(?!\s|$)
    | (?<![^\W_])_(?!\s|$)
    | (?<=\w):(?=//)
    | :(?=[\w+-]+:)
    | (?<=\bwww)\.
    | (?<=\w)@(?=\w)""",
    re.VERBOSE | re.IGNORECASE,
)
# At the start of a line: a heading, a list, a rule.
_LEADING = re.compile(r"^(\s*)(\#|[-+=](?=\s|[-=])|\d+(?=[.)]\s))")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Markdown(str):
    """A text that is Markdown already: whoever made it has escaped what comes from data."""

    __slots__ = ()

    def __add__(self, other: str) -> Markdown:
        return Markdown(str.__add__(self, escape(other)))


def escape(text: object) -> Markdown:
    r"""A text of data as Markdown that shows it as it is: no HTML, link, formula or table in it works.

    >>> print(escape("<b>*new*</b> | [here](http://x)"))
    &lt;b&gt;\*new\*&lt;/b&gt; \| \[here\](http\://x)
    """
    if isinstance(text, Markdown):
        return text
    found = _SPECIAL.sub(r"\\\g<0>", one_line(str(text)).translate(_HTML))
    return Markdown(_LEADING.sub(_unlisted, found))


def _unlisted(match: re.Match[str]) -> str:
    blank, begins = match[1], match[2]
    return f"{blank}{begins}\\" if begins[0].isdigit() else f"{blank}\\{begins}"


def code(text: object) -> Markdown:
    """A text of data between backticks, more of them than it has in a row itself.

    >>> print(code("a`b"))
    `` a`b ``
    """
    line = one_line(str(text))
    ticks = "`" * (_longest(line) + 1)
    blank = " " if "`" in line else ""
    return Markdown(f"{ticks}{blank}{line}{blank}{ticks}")


def fenced(text: str, language: str = "") -> Markdown:
    """A block of text as it is, within a fence longer than any in it."""
    fence = "`" * max(_longest(text) + 1, 3)
    lines = "\n".join(map(one_line, text.split("\n")))
    return Markdown(f"{fence}{language}\n{lines}\n{fence}")


def _longest(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def table(head: Sequence[object], rows: Iterable[Iterable[object]], *, rule: str = "| --- ") -> Markdown:
    r"""A table with a head, without a line break at its end; cells that are no Markdown are escaped.

    Args:
        head: a name a column.
        rows: the cells of each line.
        rule: is drawn below each column's name.

    >>> print(table(["a", "b"], [["1", "2|3"]]))
    | a | b |
    | --- | --- |
    | 1 | 2\|3 |
    """
    return Markdown("\n".join([_row(head), f"{rule * len(head)}|", *map(_row, rows)]))


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"


def write_page(path: Path, parts: Iterable[str]) -> Path:
    """Write the parts that are not empty, one below the other; returns the path.

    Raises:
        InputError: the page cannot be written.
    """
    return write_text_whole(path, "\n\n".join(filter(None, parts)) + "\n")
