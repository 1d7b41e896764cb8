"""Pages in Markdown: tables, and parts with an empty line between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hermes.files import write_text_whole

__all__ = ["table", "write_page"]


def table(head: Sequence[str], rows: Iterable[Iterable[str]], *, rule: str = "| --- ") -> str:
    r"""A table with a head, without a line break at its end; ``rule`` is drawn below each column's name.

    >>> print(table(["a", "b"], [["1", "2|3"]]))
    | a | b |
    | --- | --- |
    | 1 | 2\|3 |
    """
    return "\n".join([_row(head), f"{rule * len(head)}|", *map(_row, rows)])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_page(path: Path, parts: Iterable[str]) -> Path:
    """Write the parts that are not empty, one below the other; returns the path.

    Raises:
        InputError: the page cannot be written.
    """
    return write_text_whole(path, "\n\n".join(filter(None, parts)) + "\n")
