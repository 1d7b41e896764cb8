"""Files that anybody may have written: JSON read within limits, every field of its type."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypeVar, Union

from hermes.errors import InputError, did_you_mean

__all__ = [
    "Count",
    "Form",
    "Number",
    "Share",
    "Span",
    "Words",
    "fault",
    "lies_in",
    "loads",
    "parse_json",
    "read_json",
    "read_lines",
    "read_object",
    "read_text",
    "short",
    "typed",
    "with_types",
]

T = TypeVar("T")

# Of a file that is read whole, and of a line of one that is not.
MOST_BYTES, MOST_LINE = 1 << 28, 1 << 24
# Levels of lists and objects in each other; Python's own limit is about a thousand.
MOST_DEPTH = 100
# What 64 bits hold.
_MOST_INT = (1 << 63) - 1
_SHOWN = 60


class Span(NamedTuple):
    """Least and most of a number, for ``Annotated[float, Span(0, 1)]``."""

    least: float
    most: float


class Words(NamedTuple):
    """What is needed, in words of its own, for ``Annotated[float, Words("seconds")]``."""

    needed: str


class Form(NamedTuple):
    """What a text looks like, as a regular expression, for ``Annotated[str, Form("[A-Z]")]``."""

    pattern: str


Count = Annotated[int, Span(0, _MOST_INT)]
Share = Annotated[float, Span(0, 1 + 1e-6)]
# Far beyond anything measured, and far from where sums overflow.
Number = Annotated[float, Span(-1e15, 1e15)]


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
    if isinstance(value, int) and abs(value) > _MOST_INT:
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


def typed(cls: type[T], content: Any, where: str) -> T:
    """A dataclass from an object read from JSON, each field of the type it is declared with.

    Args:
        cls: a dataclass, or a typed dictionary, which may have other entries. Its fields are numbers, whose
            bounds are those of ``Annotated[float, Span(0, 1)]``, texts, lists, tuples and mappings.
        content: as read.
        where: file and line, for errors.

    Raises:
        InputError: a field that is missing, unknown or of another type; it is named.

    >>> typed(Span, {}, "here")
    Traceback (most recent call last):
    hermes.errors.InputError: here: the field 'least' is missing
    """
    hints, needed = _fields(typing.cast(Any, cls))
    if not isinstance(content, dict):
        raise InputError(f"{where}: a {type(content).__name__}; needed: a JSON object")
    for name in hints:
        if name in needed and name not in content:
            raise InputError(f"{where}: the field {name!r} is missing")
    if typing.is_typeddict(cls):
        return typing.cast(T, with_types(content, hints, where))
    for name in content:
        if name not in hints:
            hint = did_you_mean(name, hints)
            raise InputError(
                f"{where}: there is no field {name!r}; fields: {', '.join(hints)}. {hint}".rstrip()
            )
    return cls(**{name: _read(value, hints[name], f"{where}: {name}") for name, value in content.items()})


def with_types(content: dict[str, Any], hints: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An object whose entries have the types that are known of them; other entries stay as they are.

    Raises:
        InputError: an entry of another type; it is named.
    """
    return {key: _read(value, hints.get(key, Any), f"{where}: {key}") for key, value in content.items()}


@functools.cache
def _fields(cls: Any) -> tuple[dict[str, Any], set[str]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    if not dataclasses.is_dataclass(cls):
        return hints, {name for name, hint in hints.items() if typing.get_origin(hint) is not NotRequired}
    fields = [field for field in dataclasses.fields(cls) if field.init]
    none = dataclasses.MISSING
    needed = {f.name for f in fields if f.default is none and f.default_factory is none}
    return {field.name: hints[field.name] for field in fields}, needed


def _read(value: Any, hint: Any, where: str) -> Any:
    found = _fitted(value, hint)
    if found is _MISFIT:
        raise InputError(f"{where} is {short(value)}; needed: {_words(hint)}")
    return found


_MISFIT: Any = object()


def _fitted(value: Any, hint: Any, span: Span | None = None) -> Any:
    """The value as its type asks for it, or ``_MISFIT``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        form = inner[1]
        if isinstance(form, Form) and not (isinstance(value, str) and re.fullmatch(form.pattern, value)):
            return _MISFIT
        return _fitted(value, inner[0], form if isinstance(form, Span) else None)
    if origin in (Union, types.UnionType):
        fitted = (_fitted(value, one) for one in inner)
        return next((found for found in fitted if found is not _MISFIT), _MISFIT)
    if origin is Literal:
        return value if value in inner else _MISFIT
    if origin is NotRequired:
        return _fitted(value, inner[0])
    if typing.is_typeddict(hint):
        return _fitted_record(value, hint)
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        return _listed(value, origin or hint, inner)
    if origin in (dict, Mapping) or hint is dict:
        return _mapped(value, *(inner or (Any, Any)))
    if hint is float or hint is int:
        number = isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
        bounds = span or Span(-_MOST_INT, _MOST_INT)
        return value if number and bounds.least <= value <= bounds.most else _MISFIT
    fits = hint is Any or (hint in (None, type(None)) and value is None)
    return value if fits or (isinstance(hint, type) and type(value) is hint) else _MISFIT


def _listed(value: Any, kind: Any, inner: tuple[Any, ...]) -> Any:
    if not isinstance(value, (list, tuple)):
        return _MISFIT
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        hints: Sequence[Any] = inner
        if len(value) != len(inner):
            return _MISFIT
    else:
        hints = [inner[0] if inner else Any] * len(value)
    items = [_fitted(item, hint) for item, hint in zip(value, hints, strict=True)]
    if any(item is _MISFIT for item in items):
        return _MISFIT
    return tuple(items) if kind is tuple else items


def _mapped(value: Any, name: Any, hint: Any) -> Any:
    if not isinstance(value, dict) or any(_fitted(key, name) is _MISFIT for key in value):
        return _MISFIT
    items = {key: _fitted(item, hint) for key, item in value.items()}
    return _MISFIT if any(item is _MISFIT for item in items.values()) else items


def _fitted_record(value: Any, kind: Any) -> Any:
    """Of a typed dictionary; entries that it does not name stay as they are."""
    hints, needed = _fields(kind)
    if not isinstance(value, dict) or not needed <= value.keys():
        return _MISFIT
    items = {key: _fitted(item, hints.get(key, Any)) for key, item in value.items()}
    return _MISFIT if any(item is _MISFIT for item in items.values()) else items


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        span = inner[1]
        if isinstance(span, Words):
            return span.needed
        ends = f" from {span.least:g} to {span.most:g}" if isinstance(span, Span) else ""
        return _words(inner[0]) + ends
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (list, tuple, Sequence):
        return f"a list of {_words(inner[0])}" if inner else "a list"
    if origin in (dict, Mapping):
        return f"an object, each value {_words(inner[1])}" if inner else "an object"
    if typing.is_typeddict(hint):
        return f"an object with {', '.join(sorted(_fields(hint)[1]))}"
    return _NAMES.get(hint, str(hint))


_NAMES: Mapping[Any, str] = types.MappingProxyType(
    {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        list: "a list",
        dict: "an object",
        Any: "anything",
    }
)


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
