"""Files that the product writes: checked beforehand, written whole or not at all."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hermes.errors import InputError

__all__ = [
    "WriteError",
    "append_text",
    "check_file_path",
    "csv_cell",
    "json_line",
    "make_folder",
    "plain_json",
    "remove_file",
    "write_csv_whole",
    "write_files_whole",
    "write_text_whole",
    "write_torch_whole",
    "write_whole",
    "writing",
]

# What begins a formula, also in the wide letters of East Asian keyboards.
_COMPUTED = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# What is not whole yet; nobody else's file is called so.
_ASIDE = re.compile(r"\.unfinished-[0-9a-f]{16}(\..*)?")


class WriteError(InputError):
    """Something could not be written: the disk is full, the folder is gone, it may not be written to."""


@contextmanager
def writing(path: str | Path, kept: str = "") -> Iterator[None]:
    """Say of any fault of the machine inside the block what was being written, and what is safe.

    Args:
        path: of what is written.
        kept: a sentence about what was there before.

    Raises:
        WriteError: the machine refused.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        # The one ValueError that a path gives: it holds a null character.
        if isinstance(error, ValueError) and "\0" not in str(path):
            raise
        told = f"{path}: cannot be written ({_reason(error, Path(path))}). {kept}".rstrip()
        raise WriteError(f"{told} Mend it and do the same again: what was finished is kept.") from error


def _reason(error: Exception, path: Path) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        said = "a file is where a folder should be"
    at = getattr(error, "filename", None)
    # A folder above it that is at fault.
    return f"{at}: {said}" if isinstance(at, str) and Path(at) in path.parents else said


def check_file_path(path: str | Path, what: str) -> Path:
    """The path of a file that can be written, checked before anything long is begun.

    Raises:
        InputError: it cannot; ``what`` was to be written.
    """
    path = Path(path).expanduser()
    with writing(path, f"It was to hold {what}."):
        if "\0" in str(path):
            raise ValueError("embedded null character")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; {what} needs a file name")
        # A link that leads nowhere is there, and no folder.
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"{path}: {folder} is not a folder that can be written to ({what})")
    return path


def make_folder(path: str | Path) -> Path:
    """A folder and those above it, made where they are missing; their names are on disk when this returns.

    Raises:
        WriteError: it cannot be made.
    """
    path = Path(path)
    with writing(path, "It was to be a folder."):
        _make_folder(path)
    return path


def remove_file(path: str | Path) -> None:
    """Remove a file, if there is one.

    Raises:
        WriteError: it cannot be removed.
    """
    with writing(path, "It was to be removed."):
        Path(path).unlink(missing_ok=True)


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file beside its place and rename it, so that nobody ever sees half of it.

    What is at the path stays until the new file is whole and on disk, whatever interrupts the writing. What
    writers that were killed have left beside it is removed.

    Args:
        path: of the file; missing folders are made.
        write: writes all of the content to the path it is given, which has the same suffix.

    Returns:
        The path.

    Raises:
        WriteError: the file cannot be written.
    """
    path = Path(path)
    with writing(path, "What was there before, if anything, is unchanged."):
        _make_folder(path.parent)
        _clear(path.parent)
        with _aside(path) as aside:
            write(aside)
            _flush(aside, os.O_RDWR)
            aside.replace(path)
    _flush_names(path.parent)
    return path


def write_files_whole(folder: str | Path, write: Callable[[Path], object], last: str) -> Path:
    """Write files that belong together into a folder, each of them whole; others in it are left alone.

    Args:
        folder: made where it is missing.
        write: writes all of them into the empty folder that it is given.
        last: the one without which nobody takes the others for whole: it goes first and comes last, so that
            an interruption leaves no mixture that could be read.

    Raises:
        WriteError: they cannot be written.
    """
    path = make_folder(folder)
    with writing(path, "What was there before is unchanged, unless all of the new was written."):
        _clear(path)
        aside = path / f".unfinished-{secrets.token_hex(8)}"
        aside.mkdir()
        handle = os.open(aside, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            write(aside)
            made = sorted(aside.iterdir(), key=lambda file: file.name == last)
            for file in made:
                _flush(file, os.O_RDWR)
            (path / last).unlink(missing_ok=True)
            for file in made:
                file.replace(path / file.name)
        finally:
            os.close(handle)
            shutil.rmtree(aside, ignore_errors=True)
    _flush_names(path)
    return path


def append_text(path: str | Path, text: str, *, whole_lines: bool = False) -> None:
    """Add text to the end of a file: all of it, on disk when this returns, or none.

    Args:
        whole_lines: begin a new line where another process, which was killed, has left half of one.

    Raises:
        WriteError: it cannot be written.
    """
    with writing(path, "What it holds is kept."):
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            before = os.fstat(handle).st_size
            if whole_lines and before and os.pread(handle, 1, before - 1) != b"\n":
                text = f"\n{text}"
            try:
                left = memoryview(text.encode(errors="replace"))
                while left:
                    left = left[os.write(handle, left) :]
                os.fsync(handle)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
    if not before:
        _flush_names(Path(path).parent)


def write_text_whole(path: str | Path, text: str) -> Path:
    """Write a text file in UTF-8 as :func:`write_whole` does.

    Raises:
        WriteError: the file cannot be written.
    """
    # Half a surrogate pair is no text.
    return write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8", errors="replace"))


def write_torch_whole(path: str | Path, content: object) -> Path:
    """Write what ``torch.load`` reads, as :func:`write_whole` does.

    Raises:
        WriteError: the file cannot be written.
    """
    import torch

    # In memory first: where the disk is full, the writer of torch itself raises something else.
    whole = io.BytesIO()
    torch.save(content, whole)
    return write_whole(path, lambda aside: aside.write_bytes(whole.getbuffer()))


def write_csv_whole(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> Path:
    """Write a table as :func:`write_whole` does; a column for every key, empty in rows that lack it.

    A text that a spreadsheet would compute, as it begins with ``=``, ``+``, ``-`` or ``@`` and is no number,
    has an apostrophe before it.

    Args:
        path: of the file; missing folders are made.
        rows: column -> value.
        columns: that come first, or alone where there is no row.

    Raises:
        WriteError: the file cannot be written.
    """
    lines = list(rows)
    names = list(dict.fromkeys([*columns, *(key for line in lines for key in line)]))

    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8", errors="replace") as file:
            table = csv.DictWriter(file, names)
            table.writerow({name: csv_cell(name) for name in names})
            table.writerows({key: csv_cell(value) for key, value in line.items()} for line in lines)

    return write_whole(path, write)


def csv_cell(value: Any) -> Any:
    """A value as a cell of a table that spreadsheets may open: no text in it is computed.

    >>> csv_cell("=1+1"), csv_cell("-1.5"), csv_cell(2)
    ("'=1+1", '-1.5', 2)
    """
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode().replace("\0", "")
    return f"'{text}" if text.lstrip()[:1] in _COMPUTED and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.strip() == "-"
    return True


def json_line(content: Mapping[str, Any]) -> str:
    r"""An object as a line of JSON; a number that JSON does not have (NaN, infinity) becomes null.

    >>> json_line({"time_s": math.nan, "shares": [0.5, math.inf]})
    '{"time_s": null, "shares": [0.5, null]}\n'
    """
    return json.dumps(plain_json(content), allow_nan=False) + "\n"


def plain_json(value: Any) -> Any:
    r"""A value as JSON has it, so that what is written can be read by any program.

    Numbers that JSON does not have become null. Half a character, as names of files may hold that are no
    UTF-8, is written as its number.

    >>> plain_json({"video": "\udcff.mp4", "sizes": (1, math.nan)})
    {'video': '\\udcff.mp4', 'sizes': [1, None]}
    """
    if isinstance(value, Mapping):
        return {plain_json(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _make_folder(path: Path) -> None:
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _flush_names(folder.parent)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A new file beside a path, locked as long as its process lives; one that is left is removed."""
    while True:
        # Short, so that a name that fits has an aside that does.
        aside = path.with_name(f".unfinished-{secrets.token_hex(8)}{path.suffix}")
        # With the permissions of any new file.
        handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            # Not every file system can; then nothing is ever cleared.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Another process may have cleared it before it was locked.
            if not os.fstat(handle).st_nlink:
                continue
            yield aside
            return
        finally:
            os.close(handle)
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what writers that are gone have left."""
    for left in filter(lambda path: _ASIDE.fullmatch(path.name), folder.iterdir()):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(handle)


def _flush_names(folder: Path) -> None:
    # Not every file system can: then a new name may be lost with the power, but no content.
    with suppress(OSError):
        _flush(folder, os.O_RDONLY)


def _flush(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
