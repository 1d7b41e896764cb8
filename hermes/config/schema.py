"""Settings as dataclass fields: their documentation, their types in words, and parts chosen by name."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin

from hermes.errors import HermesError, InputError, SettingError, did_you_mean
from hermes.registry import registry

__all__ = ["Named", "Setting", "convert", "elements", "join", "part_type", "setting", "settings_of", "words"]


class Named:
    """Whatever a setting chooses by name; the base of `hermes.config.Part`."""

    kind: ClassVar[str]


class Written(str):
    """A text that was written otherwise, such as `${oc.env:NAME}`: records and errors show it as written.

    >>> Written.of("secret", "${oc.env:KEY}"), Written.of("secret", "${oc.env:KEY}") == "secret"
    ('${oc.env:KEY}', True)
    """

    written: str

    @classmethod
    def of(cls, value: str, written: str) -> Written:
        """The value, and how it was written."""
        found = cls(value)
        found.written = written
        return found

    def __repr__(self) -> str:
        return repr(self.written)


class WrittenInt(int):
    """A whole number that was written otherwise, see :class:`Written`."""

    written: str


class WrittenFloat(float):
    """A number that was written otherwise, see :class:`Written`."""

    written: str


class WrittenPath(type(Path())):  # type: ignore[misc]
    """A path that was written otherwise, see :class:`Written`."""

    written: str


_WRITTEN: Mapping[object, Any] = {int: WrittenInt, float: WrittenFloat, Path: WrittenPath}


class Setting(NamedTuple):
    """One setting of a dataclass: its name, its resolved type, and the dataclass field behind it."""

    name: str
    type: object
    field: dataclasses.Field[Any]

    def default(self) -> Any:
        """A fresh default, or `dataclasses.MISSING` where the setting is required."""
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return self.field.default


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str = "",
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Iterable[object] | None = None,
    later: bool = False,
    before: Any = dataclasses.MISSING,
) -> Any:
    """A documented dataclass field.

    Args:
        default: its default, copied for each instance where mutable; without one it is required.
        help: one line for `hermes show` and the documentation.
        unit: such as "s" or "tokens".
        ge, gt, le, lt: bounds of a number, or of each number in a list or mapping.
        choices: the values allowed.
        later: it came after settings were first kept by their hash: at its default it is no part of it.
        before: what the default was then, if it is another since: at its default it is hashed as that.

    >>> @dataclasses.dataclass
    ... class Tier:
    ...     share: float = setting(0.1, help="share of the layers", ge=0, le=1)
    >>> words(settings_of(Tier)["share"].type, settings_of(Tier)["share"].field.metadata)
    'a number from 0 to 1'
    """
    given = {"help": help, "unit": unit, "ge": ge, "gt": gt, "le": le, "lt": lt, "later": later or None}
    metadata: dict[str, Any] = {key: value for key, value in given.items() if value not in ("", None)}
    if choices is not None:
        metadata["choices"] = tuple(choices)
    if before is not dataclasses.MISSING:
        metadata["before"] = before
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if type(default).__hash__ is None:
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(cls: type) -> Mapping[str, Setting]:
    """The settings of a dataclass, in order; read-only.

    Raises:
        HermesError: the class itself is at fault (an unresolvable annotation, `@dataclass` forgotten).
    """
    return _settings_of(cls)


@functools.cache
def _settings_of(cls: type) -> Mapping[str, Setting]:
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise HermesError(
            f"{cls.__qualname__}: {error}; a setting's type must be importable at run time"
        ) from error
    own = [name for name in vars(cls).get("__annotations__", {}) if get_origin(hints[name]) is not ClassVar]
    if own and "__dataclass_fields__" not in vars(cls):
        raise HermesError(f"{cls.__qualname__} declares {', '.join(own)}: decorate it with @dataclass")
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    found = {f.name: Setting(f.name, hints[f.name], f) for f in fields if f.init}
    if issubclass(cls, Named) and "name" in found:
        raise HermesError(f"{cls.__qualname__}: a part cannot have a setting 'name', which chooses the part")
    return types.MappingProxyType(found)


def join(where: str, key: object) -> str:
    """`where.key`, or whichever of the two is not empty."""
    return f"{where}.{key}" if where and key != "" else where or str(key)


@functools.cache
def elements(hint: object) -> tuple[object, bool, tuple[object, ...]]:
    """A type's core without None, whether None is allowed, and its arguments.

    >>> elements(list[int] | None)
    (<class 'list'>, True, (<class 'int'>,))
    """
    optional = hint is Any or hint is None
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not types.NoneType]
        optional = len(members) < len(get_args(hint))
        if len(members) > 1:
            return Union, optional, tuple(members)
        hint = members[0]
    core = get_origin(hint) or hint
    if core in (list, Sequence):
        return list, optional, get_args(hint) or (Any,)
    if core is tuple:
        return tuple, optional, get_args(hint) or (Any, ...)
    if core in (dict, Mapping):
        return dict, optional, get_args(hint) or (Any, Any)
    return core, optional, get_args(hint)


def part_type(hint: object) -> type[Named] | None:
    """The part class of `Scorer` or `Scorer | None`; None for any other type."""
    core = elements(hint)[0]
    return core if isinstance(core, type) and issubclass(core, Named) else None


def words(hint: object, limits: Mapping[str, Any] = types.MappingProxyType({})) -> str:
    """A type and its limits in words, for errors and documentation.

    Raises:
        HermesError: a type that no setting can have.

    >>> words(list[int] | None, {"gt": 0})
    'a list, each a whole number above 0, or null'
    """
    core, optional, args = elements(hint)
    simple = {bool: "true or false", str: "text", Path: "a path", Any: "anything"}
    number = {int: "a whole number", float: "a number"}
    if part := part_type(hint):
        text = f"a {part.kind} ({', '.join([*registry(part.kind).names(), 'a dotted path'])})"
    elif "choices" in limits and core not in (list, tuple, dict):
        text = f"one of {', '.join(map(str, limits['choices']))}"
    elif core in number:
        text = f"{number[core]}{_range(limits)}"
    elif core in simple:
        text = simple[core]
    elif core is Literal:
        text = f"one of {', '.join(map(str, args))}"
    elif isinstance(core, type) and issubclass(core, Enum):
        text = f"one of {', '.join(core.__members__)}"
    elif core is Union:
        text = " or ".join(words(member, limits) for member in args)
    elif core is list or (core is tuple and args[-1] is ...):
        text = f"a list, each {words(args[0], limits)}"
    elif core is tuple:
        text = f"a list of {len(args)}: {', '.join(words(arg, limits) for arg in args)}"
    elif core is dict:
        text = f"a mapping, each value {words(args[1], limits)}"
    elif dataclasses.is_dataclass(core) and isinstance(core, type):
        text = f"a mapping with the settings {', '.join(settings_of(core))}"
    else:
        raise HermesError(f"{hint!r} cannot be the type of a setting")
    return f"{text}, or null" if optional and hint is not Any else text


def _range(limits: Mapping[str, Any]) -> str:
    if "ge" in limits and "le" in limits:
        return f" from {limits['ge']} to {limits['le']}"
    names = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    found = [f"{text} {limits[key]}" for key, text in names.items() if key in limits]
    return f" {' and '.join(found)}" if found else ""


def convert(hint: object, value: Any, where: str, limits: Mapping[str, Any], *, text: bool = True) -> Any:
    """A plain value as the scalar type `hint`, checked; nothing is rounded or turned into text.

    Args:
        text: whether text is read as a number or as true and false, as a file or a command line has it.

    Raises:
        SettingError: wrong type, or out of bounds.
    """
    core, _, args = elements(hint)
    given, ok, note = value, True, ""
    quote = "Put the text in quotes inside the value: key='\"...\"'."
    if core is Literal:
        note = "" if isinstance(value, str) else quote
        ok = any(type(value) is type(arg) and value == arg for arg in args)
    elif core is bool:
        spoken = {"true": True, "false": False}
        value = spoken.get(value.lower(), value) if isinstance(value, str) else value
        ok = isinstance(value, bool) and (text or value is given)
    elif core is int or core is float:
        value = _number(core, value, text)
        ok = value is not None
    elif core is str:
        # YAML reads 0123, 1e9 and yes as numbers and booleans: their spelling is lost already.
        ok, note = isinstance(value, str), quote
    elif core is Path:
        ok = isinstance(value, (str, Path))
        value = Path(value) if ok else value
    elif isinstance(core, type) and issubclass(core, Enum):
        members = {name.lower(): member for name, member in core.__members__.items()}
        value = value if isinstance(value, core) else members.get(str(value).lower())
        ok = value is not None
    elif core is not Any:
        ok = False
    if ok and isinstance(value, int) and not -(2**63) <= value < 2**63:
        ok, note = False, "It does not fit 64 bits."
    if not ok or not _within(value, limits):
        options = [
            *limits.get("choices", ()),
            *(args if core is Literal else getattr(core, "__members__", ())),
        ]
        meant = did_you_mean(given, map(str, options)) if isinstance(given, str) else ""
        raise SettingError(where, given, words(hint, limits), meant or ("" if ok else note))
    if (written := getattr(given, "written", None)) is not None and core in _WRITTEN:
        value = _WRITTEN[core](value)
        value.written = written
    return value


def _number(core: type[int] | type[float], value: Any, text: bool) -> int | float | None:
    """A number of this type, also from one of numpy's; None for anything else, and for what is not finite."""
    try:
        number: Any = core(value) if isinstance(value, str) and text else value
        if isinstance(number, bool) or not isinstance(number, Real):
            return None
        if core is int:
            exact: Any = number if isinstance(number, Integral) else float(number)
            return int(exact) if exact == int(exact) else None
        return float(number) if math.isfinite(number) else None
    except (ValueError, OverflowError):
        return None


def _within(value: Any, limits: Mapping[str, Any]) -> bool:
    if "choices" in limits and value not in limits["choices"]:
        return False
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    # Written so that NaN is outside any bound.
    tests = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
    return all(test(value, limits[key]) for key, test in tests.items() if key in limits)


def to_dict(obj: object, *, hashing: bool = False) -> Any:
    """Plain containers that `build` turns into an equal object; safe for YAML and JSON.

    Args:
        obj: settings, or plain values and containers.
        hashing: leave out what a hash of settings leaves out (`later`, see :func:`setting`).

    Raises:
        InputError: a value that no setting can hold.

    >>> to_dict((1, {"a": None}))
    [1, {'a': None}]
    """
    if isinstance(obj, Named) or (dataclasses.is_dataclass(obj) and not isinstance(obj, type)):
        values = _hashed(obj) if hashing else {name: getattr(obj, name) for name in settings_of(type(obj))}
        plain = {name: to_dict(value, hashing=hashing) for name, value in values.items()}
        return {"name": registry(obj.kind).name_of(type(obj)), **plain} if isinstance(obj, Named) else plain
    if isinstance(obj, (Written, WrittenInt, WrittenFloat, WrittenPath)):
        return obj.written
    if isinstance(obj, Enum):
        return obj.name
    if isinstance(obj, Path):
        return str(obj)
    if isinstance(obj, Mapping):
        return {to_dict(key): to_dict(value, hashing=hashing) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [to_dict(value, hashing=hashing) for value in obj]
    if obj is None or isinstance(obj, (bool, int, float, str)):
        return obj
    raise InputError(f"a setting cannot hold {obj!r}: only plain values, parts and settings dataclasses")


def _hashed(obj: object) -> dict[str, Any]:
    """What a hash of an object's settings depends on, see `later` and `before` of :func:`setting`."""
    found = {}
    for name, one in settings_of(type(obj)).items():
        value, metadata = getattr(obj, name), one.field.metadata
        default = ("later" in metadata or "before" in metadata) and value == one.default()
        if not (default and "later" in metadata):
            found[name] = metadata["before"] if default else value
    return found
