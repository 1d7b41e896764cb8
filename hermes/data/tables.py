"""Annotation files as plain rows: JSON, JSON lines, CSV and, where pyarrow is installed, Parquet."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hermes.errors import InputError
from hermes.reading import loads, read_lines, read_text

__all__ = ["load"]


def load(path: Path) -> Any:
    """The content of a file: rows of a table as a list of objects, or whatever a JSON file holds.

    The suffix tells the format: ``.jsonl``, ``.csv``, ``.parquet``; all others are JSON. NaN, which tables
    write for what is missing, reads as null.

    Raises:
        InputError: a file that cannot be read, or is not what its suffix says; the line is named.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; needed: an annotation file")
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet(path)
    if kind == ".csv":
        return list(_rows(path))
    if kind == ".jsonl":
        return [loads(line, f"{path}, line {number}", nan=None) for number, line in read_lines(path)]
    return loads(read_text(path), str(path), nan=None)


def _rows(path: Path) -> Iterator[dict[str, str | None]]:
    table = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        names = next(table, [])
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{path}, line 1: the column {twice!r} comes twice")
        for cells in table:
            if len(cells) > len(names):
                what = f"{len(cells)} cells; the first line names {len(names)} columns"
                raise InputError(f"{path}, line {table.line_num}: {what}")
            if cells:
                yield {**dict.fromkeys(names), **dict(zip(names, cells, strict=False))}
    except csv.Error as error:
        raise InputError(f"{path}, line {table.line_num}: cannot be read ({error})") from error


def _parquet(path: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        hint = "pip install hermes-stream[parquet], or save the table as JSON, JSON lines or CSV"
        raise InputError(f"{path}: Parquet needs another package: {hint}") from error
    try:
        return parquet.read_table(path).to_pylist()
    # pyarrow's own errors are subclasses of these; a damaged file may tell of more than any machine has.
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        NotImplementedError,
        MemoryError,
        OverflowError,
    ) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error})") from error
