"""Annotation files as plain rows: JSON, JSON lines, CSV and, where pyarrow is installed, Parquet."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

from hermes.errors import InputError

__all__ = ["load"]


def load(path: Path) -> Any:
    """The content of a file: rows of a table as a list of objects, or whatever a JSON file holds.

    The suffix tells the format: ``.jsonl``, ``.csv``, ``.parquet``; all others are JSON.

    Raises:
        InputError: a file that cannot be read, or is not what its suffix says.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; needed: an annotation file")
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if kind == ".csv":
                return list(csv.DictReader(file))
            if kind == ".jsonl":
                return [json.loads(line) for line in file if line.strip()]
            return json.load(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error


def _parquet(path: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        hint = "pip install hermes-stream[parquet], or save the table as JSON, JSON lines or CSV"
        raise InputError(f"{path}: Parquet needs another package: {hint}") from error
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are subclasses of these
        raise InputError(f"{path}: cannot be read as Parquet ({error})") from error
