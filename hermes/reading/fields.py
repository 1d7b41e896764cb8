"""Values read from JSON as records: every field of the type that it is declared with."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypeVar, Union

from hermes.errors import InputError, did_you_mean
from hermes.reading.texts import MOST_INT, short

__all__ = ["Count", "Form", "Number", "Share", "Span", "Words", "typed", "with_types"]


T = TypeVar("T")


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


Count = Annotated[int, Span(0, MOST_INT)]
Share = Annotated[float, Span(0, 1 + 1e-6)]
# Far beyond anything measured, and far from where sums overflow.
Number = Annotated[float, Span(-1e15, 1e15)]


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
        bounds = span or Span(-MOST_INT, MOST_INT)
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
