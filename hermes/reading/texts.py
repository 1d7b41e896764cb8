"""Files that anybody may have written, as text and as JSON, within limits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hermes.errors import InputError

__all__ = [
    "fault",
    "lies_in",
    "loads",
    "parse_json",
    "read_json",
    "read_lines",
    "read_object",
    "read_text",
    "short",
]


# Of a file that is read whole, and of a line of one that is not.
MOST_BYTES, MOST_LINE = 1 << 28, 1 << 24
# Levels of lists and objects in each other; Python's own limit is about a thousand.
MOST_DEPTH = 100
# What 64 bits hold.
MOST_INT = (1 << 63) - 1
_SHOWN = 60


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a path is below a folder, links followed; a path that no system can have is not.

    >>> lies_in("videos/a.mp4", "videos"), lies_in("videos/../a.mp4", "videos"), lies_in("videos", "videos")
    (True, False, False)
    """
    try:
        real, root = Path(path).resolve(), Path(folder).resolve()
    except (OSError, ValueError, RuntimeError):
        return False
    return real != root and real.is_relative_to(root)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: it cannot be read, is larger than 256 MiB, or is no such text; the line is named.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES >> 20} MiB")
    return _decoded(content, str(path), 1)


def read_lines(path: Path, *, unfinished: bool = True) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers from 1; only line feeds end a line.

    Args:
        path: of the file.
        unfinished: whether a last line without a line feed counts.

    Raises:
        InputError: as for :func:`read_text`; a line is larger than 16 MiB.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MOST_LINE + 1), b""), start=1):
                if len(line) > MOST_LINE:
                    raise InputError(f"{path}, line {number}: larger than {MOST_LINE >> 20} MiB")
                if line.strip() and (unfinished or line.endswith(b"\n")):
                    yield number, _decoded(line, str(path), number)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _decoded(content: bytes, where: str, line: int) -> str:
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        what = f"byte {content[error.start]:#04x} at line {line}"
        raise InputError(f"{where}: cannot be read (not UTF-8 text: {what})") from error


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says, if nothing in it is a fault (see :func:`fault`).

    Raises:
        InputError: it is no JSON, or holds what JSON should not.

    >>> parse_json('{"time": 3}', "questions, line 1")
    {'time': 3}
    """
    content = loads(text, where)
    found = fault(content)
    if found is not None:
        raise InputError(f"{where}: {found}")
    return content


def loads(text: str, where: str, *, nan: float | None = math.nan) -> Any:
    """What a JSON text says, whatever values it has; ``nan`` stands for NaN, which JSON does not have.

    Raises:
        InputError: it is no JSON, an object has a key twice, or it is nested beyond all measure.
    """
    constants = {"NaN": nan, "Infinity": math.inf, "-Infinity": -math.inf}
    try:
        return json.loads(
            text, parse_constant=constants.__getitem__, parse_int=_whole, object_pairs_hook=_once
        )
    except RecursionError:
        raise InputError(f"{where}: lists and objects are nested too deep") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error


def _whole(digits: str) -> float:
    # Python refuses to read more than some 4 000 digits.
    return int(digits) if len(digits) < 1000 else math.inf


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {short(twice)} comes twice in one object")
    return found


def fault(content: Any) -> str | None:
    r"""What values read from JSON hold that nothing could use, in words with its place; None: nothing.

    That is half a character (a lone surrogate), an infinite number or one beyond 64 bits, and nesting of more
    than 100 levels.

    >>> fault({"rows": [1, {"answer": "\ud800"}]})
    'rows[1].answer holds half a character (a lone surrogate)'
    """
    waiting: list[tuple[Any, str, int]] = [(content, "", 0)]
    while waiting:
        value, place, depth = waiting.pop()
        said = _wrong(value)
        if said is None and isinstance(value, dict):
            said = next((found for key in value if (found := _wrong(key))), None)
        if said is not None:
            return f"{place or 'it'} {said}"
        if depth == MOST_DEPTH and isinstance(value, (dict, list)):
            return f"{place[:_SHOWN]}... is nested deeper than {MOST_DEPTH} levels"
        if isinstance(value, dict):
            prefix = f"{place}." if place else ""
            waiting += [(item, f"{prefix}{key}", depth + 1) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(item, f"{place}[{i}]", depth + 1) for i, item in reversed([*enumerate(value)])]
    return None


def _wrong(value: Any) -> str | None:
    if isinstance(value, str):
        # Most texts are ASCII, which is quickly seen.
        half = not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)
        return "holds half a character (a lone surrogate)" if half else None
    if isinstance(value, float) and not math.isfinite(value):
        return "is a number without end, or too large for any use"
    if isinstance(value, int) and abs(value) > MOST_INT:
        return "is a number of more than 64 bits"
    return None


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        InputError: a file that cannot be read, is no JSON or holds what JSON should not.
    """
    return parse_json(read_text(path), str(path))


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        InputError: likewise, or it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: {short(content)}; needed: a JSON object")
    return content


def short(value: Any) -> str:
    """A value as JSON has it, cut to a line.

    >>> short({"time": 3})
    '{"time": 3}'
    """
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
