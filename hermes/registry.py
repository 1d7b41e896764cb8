"""Find policies, backbones, parts and data by name, without importing any of them beforehand."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import sys
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any, NamedTuple

from hermes.errors import HermesError, SettingError, did_you_mean
from hermes.forwarding import current_place, stored_module

__all__ = ["KINDS", "Entry", "Registry", "registry"]

logger = logging.getLogger(__name__)

OURS = "hermes-stream"

# Imports that failed in this process for another reason than a module that is not installed, by path.
failures: dict[str, Exception] = {}

# kind -> entry-point group
KINDS = {
    "policy": "hermes.policies",
    "backbone": "hermes.backbones",
    "scorer": "hermes.scorers",
    "smoother": "hermes.smoothers",
    "selector": "hermes.selectors",
    "merger": "hermes.mergers",
    "reindexer": "hermes.reindexers",
    "probe": "hermes.probes",
    "callback": "hermes.callbacks",
    "data": "hermes.data",
    "judge": "hermes.judges",
    "command": "hermes.commands",
}


class Entry(NamedTuple):
    """One line of `hermes list`: name, first docstring line (or why it cannot be imported), origin."""

    name: str
    summary: str
    origin: str


class Registry:
    """Objects of one kind, by entry-point name or by dotted path.

    Args:
        kind: word for error messages, such as "policy".
        group: entry-point group, such as "hermes.policies".

    >>> Registry("shape", "hermes.doctest").get("fractions:Fraction").__name__
    'Fraction'
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._local: dict[str, Any] = {}
        # Entry points that were loaded and are not hidden: asked for thousands of times in a sweep.
        self._loaded: dict[str, Any] = {}

    @functools.cached_property
    def _entries(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in sorted(
            _installed(tuple(sys.path)).select(group=self.group),
            key=lambda entry: (_distribution(entry), entry.value),
        ):
            found.setdefault(entry.name, []).append(entry)
        for name, entries in found.items():
            ours = [entry for entry in entries if _distribution(entry) == OURS]
            if ours and len(entries) > len(ours):
                others = [
                    f"{entry.value} of {_distribution(entry)}" for entry in entries if entry not in ours
                ]
                text = "%s %r is that of %s; give %s by its dotted path"
                logger.warning(text, self.kind, name, OURS, ", ".join(others))
                found[name] = ours
        return found

    def names(self) -> list[str]:
        """Registered names, sorted; nothing is imported."""
        return sorted({*self._entries, *self._local})

    def register(self, name: str, obj: Any) -> None:
        """Name an object for this process only, as in a notebook; packages use entry points instead.

        Raises:
            SettingError: the name is an entry point already.
        """
        if name in self._entries:
            raise SettingError(self.kind, name, "a name that is not taken", f"{self._origin(name)} has it.")
        self._local[name] = obj

    def get(self, name: str, where: str = "") -> Any:
        """The object behind a registered name, or else behind `module.attr` or `module:attr`.

        Args:
            name: what the user wrote.
            where: dotted key of the setting, for the error message; default: the kind.

        Raises:
            SettingError: unknown name, failed import, or two packages with the same name.
        """
        where = where or self.kind
        for known in (self._local, self._loaded):
            if name in known:
                return known[name]
        if name in self._entries:
            entry, *others = self._entries[name]
            if others:
                paths = [entry.value, *(other.value for other in others)]
                raise SettingError(where, name, paths, f"Two packages register it: {self._origin(name)}.")
            try:
                obj = entry.load()
            except Exception as error:
                _remember(entry.value, error)
                hint = f"Importing {entry.value!r} failed: {_reason(error)}."
                raise SettingError(where, name, hint=hint) from error
            self._loaded[name] = obj
            return obj
        if "." in name or ":" in name:
            return self._import(name, where)
        raise SettingError(where, name, self._allowed(), did_you_mean(name, self.names()))

    def name_of(self, obj: Any) -> str:
        """The registered name of a class, or else its dotted path; the inverse of `get`.

        Settings and their hashes keep it, so a class of ours that was moved has the path it had at first.
        """
        for name, value in self._local.items():
            if value is obj:
                return name
        for name, entries in self._entries.items():
            # A module that is not loaded yet cannot be where this object came from.
            if len(entries) == 1 and entries[0].module in sys.modules and _peek(entries[0]) is obj:
                return name
        separator = ":" if "." in obj.__qualname__ else "."
        return f"{stored_module(obj.__module__)}{separator}{obj.__qualname__}"

    def describe(self) -> list[Entry]:
        """Every name with its summary and origin; a broken one is listed with its error."""
        rows = []
        for name in self.names():
            try:
                summary = (inspect.getdoc(self.get(name)) or "").partition("\n")[0]
            except SettingError as error:
                summary = f"cannot be used: {error}"
            rows.append(Entry(name, summary, self._origin(name)))
        return rows

    def _origin(self, name: str) -> str:
        return " and ".join(map(_distribution, self._entries.get(name, []))) or "this process"

    def _import(self, path: str, where: str) -> Any:
        module_name, _, attribute = path.rpartition(":" if ":" in path else ".")
        name, *inner = attribute.split(".")
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)
        try:
            module_name, name = current_place(module_name, name)
            obj: Any = importlib.import_module(module_name)
        except Exception as error:
            _remember(module_name, error)
            hint = f"Importing {module_name!r} failed: {_reason(error)}. {did_you_mean(path, self.names())}"
            raise SettingError(where, path, self._allowed(), hint.strip()) from error
        for part in (name, *inner):
            if not hasattr(obj, part):
                hint = f"{module_name!r} has no {attribute!r}. {did_you_mean(part, dir(obj))}"
                raise SettingError(where, path, self._allowed(), hint.strip())
            obj = getattr(obj, part)
        return obj

    def _allowed(self) -> str:
        return ", ".join([*self.names(), "a dotted path module.attr"])


@functools.cache
def registry(kind: str) -> Registry:
    """The registry of one kind of object, such as `registry("policy")`.

    Raises:
        HermesError: no such kind.
    """
    if kind not in KINDS:
        raise HermesError(f"no registry for kind {kind!r}; kinds: {', '.join(KINDS)}")
    return Registry(kind, KINDS[kind])


@functools.cache
def _installed(path: tuple[str, ...]) -> Any:
    """The entry points of every package on the path, read once for all kinds."""
    return entry_points()


def _distribution(entry: EntryPoint) -> str:
    return _name(entry.dist) if entry.dist is not None else "an unnamed distribution"


@functools.cache
def _name(distribution: Distribution) -> str:
    return distribution.name


def _remember(path: str, error: Exception) -> None:
    if not isinstance(error, ModuleNotFoundError):
        failures[path] = error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _peek(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception:
        return None
