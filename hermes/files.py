"""Files that the product writes: checked beforehand, written whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hermes.errors import InputError

__all__ = ["check_file_path", "json_line", "write_csv_whole", "write_text_whole", "write_whole"]


def check_file_path(path: str | Path, what: str) -> Path:
    """The path of a file that can be written, checked before anything long is begun.

    Raises:
        InputError: it cannot; ``what`` was to be written.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path}: is a folder; {what} needs a file name")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: {folder} is not a folder that can be written to")
    return path


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file beside its place and rename it, so that nobody ever sees half of it.

    What is at the path stays until the new file is whole and on disk, whatever interrupts the writing.

    Args:
        path: of the file; missing folders are made.
        write: writes all of the content to the path it is given, which has the same suffix.

    Returns:
        The path.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # With the permissions of any new file.
        aside.touch(exist_ok=False)
        write(aside)
        _flush(aside, os.O_RDWR)
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    # Not every file system can: then the new name may be lost with the power, but no content.
    with suppress(OSError):
        _flush(path.parent, os.O_RDONLY)
    return path


def write_text_whole(path: str | Path, text: str) -> Path:
    """Write a text file in UTF-8 as :func:`write_whole` does.

    Raises:
        InputError: the file cannot be written.
    """
    return write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_csv_whole(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> Path:
    """Write a table as :func:`write_whole` does; a column for every key, empty in rows that lack it.

    Args:
        path: of the file; missing folders are made.
        rows: column -> value.
        columns: that come first, or alone where there is no row.

    Raises:
        InputError: the file cannot be written.
    """
    lines = list(rows)
    names = list(dict.fromkeys([*columns, *(key for line in lines for key in line)]))

    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, names)
            table.writeheader()
            table.writerows(lines)

    return write_whole(path, write)


def json_line(content: Mapping[str, Any]) -> str:
    r"""An object as a line of JSON; a number that JSON does not have (NaN, infinity) becomes null.

    >>> json_line({"time_s": math.nan, "shares": [0.5, math.inf]})
    '{"time_s": null, "shares": [0.5, null]}\n'
    """
    return json.dumps(_plain(content), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flush(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
