"""Plain mappings to dataclass instances and back."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from abc import ABCMeta
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union, cast

from hermes.config.schema import Named, convert, elements, join, part_type, settings_of, to_dict, words
from hermes.errors import HermesError, InputError, SettingError, did_you_mean
from hermes.registry import registry

__all__ = ["REMOVE", "Part", "Settings", "build", "check", "expand", "patch"]

T = TypeVar("T")

# In a change given to `patch`: take this key away.
REMOVE = object()

_REQUIRED = "This setting is required."
_NO_LIMITS: Mapping[str, Any] = MappingProxyType({})

# What becomes of a spec: its defaults are written out; an instance is made of it, as files and command lines
# have it; or values that are ready are checked, where text is no number.
Mode = Literal["expand", "build", "check"]


class _Checked(ABCMeta):
    """Classes whose settings are checked whenever an instance is made, however it is made."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            settings, bound = settings_of(cls), _signature(cls).bind(*args, **kwargs)
        except (HermesError, TypeError):
            # A class that cannot be built from settings, or a call that Python refuses in its own words.
            return super().__call__(*args, **kwargs)
        for name in bound.arguments.keys() & settings:
            hint, limits = settings[name].type, settings[name].field.metadata
            bound.arguments[name] = _walk(hint, bound.arguments[name], name, limits, "check")
        return super().__call__(*bound.args, **bound.kwargs)


class Settings(metaclass=_Checked):
    """Base of a group of settings: a dataclass whose values are checked, by whatever way it is made.

    >>> from hermes.config.schema import setting
    >>> @dataclasses.dataclass
    ... class Cut(Settings):
    ...     frames: int = setting(16, ge=1)
    >>> dataclasses.replace(Cut(4), frames=0)
    Traceback (most recent call last):
    hermes.errors.SettingError: frames: got 0; allowed: a whole number of at least 1
    >>> Cut(), Cut(4)
    (Cut(), Cut(frames=4))
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Before `dataclass` writes one that spells out every default.
        if "__repr__" not in vars(cls):
            cls.__repr__ = Settings.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """The class and those settings that are not its defaults."""
        try:
            settings = settings_of(type(self)).values()
        except HermesError:
            return super().__repr__()
        given = ((setting, getattr(self, setting.name, None)) for setting in settings)
        said = [
            f"{setting.name}={value!r}"
            for setting, value in given
            if setting.field.repr and setting.default() != value
        ]
        return f"{type(self).__qualname__}({', '.join(said)})"


class Part(Settings, Named):
    """Base of whatever a setting chooses by name: policies, scorers, selectors and others.

    A field annotated with a subclass takes a registered name, a dotted path, a mapping
    `{name: ..., **settings}`, or an instance. Subclasses are dataclasses whose fields are their settings.
    """


@functools.cache
def _signature(cls: type) -> inspect.Signature:
    """Of the constructor, without ``self``."""
    constructor: Any = getattr(cls, "__init__")  # noqa: B009 (mypy: unsound on an instance)
    whole = inspect.signature(constructor)
    return whole.replace(parameters=list(whole.parameters.values())[1:])


def build(cls: type[T], spec: object = None, where: str = "") -> T:
    """An instance of a settings dataclass from plain values, checked.

    A mapping is complete: what it leaves out has the class's default. Only where a setting's own default is
    an instance does a mapping without `name` edit that default.

    Args:
        cls: a dataclass, or a `Part` (then `spec` may choose any part of its kind).
        spec: mapping of settings, name or dotted path of a part, ready instance, or None for all defaults.
        where: dotted key of the whole, for error messages.

    Raises:
        SettingError: unknown, missing, mistyped or out-of-bounds setting, or unknown part.

    >>> from hermes.config.schema import setting
    >>> @dataclasses.dataclass
    ... class Tier:
    ...     share: float = setting(0.1, ge=0, le=1)
    >>> build(Tier, {"share": "lots"}, "policy.tiers.sensory")
    Traceback (most recent call last):
    hermes.errors.SettingError: policy.tiers.sensory.share: got 'lots'; allowed: a number from 0 to 1
    """
    return cast(T, _walk(cls, {} if spec is None else spec, where, _NO_LIMITS, "build"))


def check(hint: object, value: object, where: str = "", limits: Mapping[str, Any] = _NO_LIMITS) -> Any:
    """A ready value, as a setting of this type may have it; instances are looked into.

    Args:
        hint: the type.
        value: what was given. Text is no number here; a name or a mapping may stand for a part.
        where: dotted key of the setting, for error messages.
        limits: bounds, as :func:`hermes.config.setting` takes them.

    Raises:
        SettingError: another type, or out of bounds.

    >>> check(int, "64", "budget", {"ge": 1})
    Traceback (most recent call last):
    hermes.errors.SettingError: budget: got '64'; allowed: a whole number of at least 1
    """
    return _walk(hint, value, where, limits, "check")


def expand(hint: object, spec: object, where: str = "") -> Any:
    """The plain spec with every default written out, so that it can be edited and referred to.

    Values are not checked yet, since they may be interpolations; names and keys are.

    Raises:
        SettingError: unknown setting or part.
    """
    return _walk(hint, spec, where, _NO_LIMITS, "expand")


def _walk(
    hint: object, spec: Any, where: str, limits: Mapping[str, Any], mode: Mode, default: object = None
) -> Any:
    """What becomes of a spec by this mode; `default` is the setting's own."""
    core, optional, args = elements(hint)
    make = mode != "expand"
    if (spec is None and optional) or (not make and _interpolated(spec)):
        return spec
    if part := part_type(hint):
        return _part(part, spec, where, mode, default)
    if dataclasses.is_dataclass(core) and isinstance(core, type):
        if isinstance(spec, core):
            return _ready(spec, where)
        mine = default if isinstance(default, core) else None
        return _settings(core, _mapping(spec, hint, where), where, mode, mine)
    if core is dict and (make or isinstance(spec, Mapping)):
        entries = {}
        for key, value in _mapping(spec, hint, where).items():
            at = join(where, key)
            name = convert(args[0], key, at, _NO_LIMITS)
            try:
                entries[name] = _walk(args[1], value, at, limits, mode)
            except SettingError as error:
                # Half an entry under a new name is an entry that is there, mistyped.
                meant = did_you_mean(str(key), [str(other) for other in spec if other != key])
                if error.hint != _REQUIRED or not meant:
                    raise
                hint = f"{_REQUIRED} {key!r} is a new entry. {meant}"
                raise SettingError(error.where, error.given, error.allowed, hint) from None
        return entries
    if core in (list, tuple) and (make or isinstance(spec, (list, tuple))):
        return _sequence(hint, spec, where, limits, mode)
    if not make:
        return spec
    if core is Union:
        return _union(hint, args, spec, where, limits, mode)
    if mode == "check" and not _plain(core):
        return spec
    return convert(hint, spec, where, limits, text=mode == "build")


def _plain(core: object) -> bool:
    """Whether a type is one that `convert` knows; objects of a policy's own are given ready only."""
    return core in (bool, int, float, str, Path, Literal) or (
        isinstance(core, type) and issubclass(core, Enum)
    )


def _ready(spec: T, where: str) -> T:
    """An instance, whose settings may have been changed since it was made."""
    try:
        settings = settings_of(type(spec))
    except HermesError:
        return spec
    for name, setting in settings.items():
        value = getattr(spec, name)
        if value is not setting.field.default:
            _walk(setting.type, value, join(where, name), setting.field.metadata, "check")
    return spec


def _interpolated(spec: object) -> bool:
    return isinstance(spec, str) and "${" in spec


def _sequence(hint: object, spec: Any, where: str, limits: Mapping[str, Any], mode: Mode) -> Any:
    core, _, args = elements(hint)
    if not isinstance(spec, (list, tuple)):
        raise SettingError(where, spec, words(hint, limits))
    types = args[:1] * len(spec) if core is list or args[-1] is ... else args
    if len(types) != len(spec):
        raise SettingError(where, spec, words(hint, limits))
    pairs = enumerate(zip(types, spec, strict=True))
    found = [_walk(item, value, f"{where}[{i}]", limits, mode) for i, (item, value) in pairs]
    return tuple(found) if mode != "expand" and core is tuple else found


def _union(
    hint: object, args: tuple[object, ...], spec: Any, where: str, limits: Mapping[str, Any], mode: Mode
) -> Any:
    # The member of exactly this type first: "4" stays text where both numbers and text are allowed.
    for member in sorted(args, key=lambda arg: arg is not type(spec)):
        try:
            return _walk(member, spec, where, limits, mode)
        except SettingError:
            continue
    raise SettingError(where, spec, words(hint, limits))


def _mapping(spec: Any, hint: object, where: str) -> Mapping[Any, Any]:
    if not isinstance(spec, Mapping):
        raise SettingError(where, spec, words(hint))
    return spec


def _part(base: type[Named], spec: Any, where: str, mode: Mode, default: object) -> Any:
    if isinstance(spec, base):
        return _ready(spec, where)
    rest = dict(_mapping({"name": spec} if isinstance(spec, str) else spec, base, where))
    name = rest.pop("name", None)
    mine = default if isinstance(default, base) and name is None else None
    if mine is not None or (name is None and not inspect.isabstract(base) and "kind" not in vars(base)):
        cls = base if mine is None else type(mine)
        name = registry(base.kind).name_of(cls)
    elif isinstance(name, str):
        cls = _part_class(base, name, where)
    else:
        hint = "The mapping has no 'name', which chooses the part." if name is None else ""
        raise SettingError(where, spec, words(base), hint)
    settings = _settings(cls, rest, where, mode, mine)
    return settings if mode != "expand" else {"name": name, **settings}


def _part_class(base: type[Named], name: str, where: str) -> type[Named]:
    found = registry(base.kind).get(name, where)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise SettingError(where, name, words(base), f"{found!r} is not a subclass of {base.__qualname__}.")
    return found


def _settings(cls: type, spec: Mapping[str, Any], where: str, mode: Mode, default: object) -> Any:
    settings, make = settings_of(cls), mode != "expand"
    for key in spec:
        if key not in settings:
            raise unknown(where, key, spec[key], settings)
    values = {}
    for name, setting in settings.items():
        at = join(where, name)
        limits = setting.field.metadata
        value = setting.default() if default is None else getattr(default, name)
        if name in spec:
            values[name] = _walk(setting.type, spec[name], at, limits, mode, value)
        elif value is not dataclasses.MISSING:
            values[name] = value if make else to_dict(value)
        elif make:
            raise SettingError(at, None, words(setting.type, limits), _REQUIRED)
    if not make:
        return values
    try:
        return cls(**values)
    except SettingError as error:
        raise SettingError(join(where, error.where), error.given, error.allowed, error.hint) from error
    except ValueError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from error


def unknown(where: str, key: object, given: object, options: Mapping[str, object]) -> SettingError:
    """The error for a key that no setting has."""
    hint = f"There is no setting {key!r}. {did_you_mean(str(key), options)}".strip()
    return SettingError(join(where, key), given, f"the settings {', '.join(options) or '(none)'}", hint)


def patch(hint: object, base: Any, change: Any, where: str = "") -> Any:
    """A change laid over a spec: mappings merge, everything else replaces.

    A part under another `name` replaces the part with all its settings. In a named mapping, null and
    `REMOVE` take an entry away, and a change that names every entry also sets their order.

    Args:
        hint: type of the setting that `base` is the spec of.
        base: plain spec, expanded; it is not modified.
        change: plain spec.

    Raises:
        SettingError: nothing there to remove.
    """
    core, _, args = elements(hint)
    part = part_type(hint)
    if part and isinstance(change, str) and not _interpolated(change):
        change = {"name": change}
    if not isinstance(change, Mapping):
        return change
    out = dict(base) if isinstance(base, Mapping) else {}
    if part and change.get("name", out.get("name")) != out.get("name"):
        out = {}
    cls = core
    if part and isinstance(name := change.get("name", out.get("name")), str):
        cls = _part_class(part, name, where)
    settings = settings_of(cls) if dataclasses.is_dataclass(cls) and isinstance(cls, type) else {}
    for key, value in change.items():
        key = convert(args[0], key, join(where, key), _NO_LIMITS) if core is dict else key
        child = settings[key].type if key in settings else args[1] if core is dict else Any
        if value is REMOVE or (value is None and core is dict and not elements(child)[1]):
            if key not in out:
                hint = f"There is nothing to remove. {did_you_mean(str(key), map(str, out))}".strip()
                raise SettingError(join(where, key), None, list(out), hint)
            del out[key]
        else:
            out[key] = patch(child, out.get(key), value, join(where, key))
    if core is dict and all(key in change for key in out):
        out = {key: out[key] for key in change if key in out}
    return out
