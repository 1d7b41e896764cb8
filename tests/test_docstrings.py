"""Every public name says what it is and what it raises."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import hermes
import hermes.analysis
import hermes.backbones
import hermes.policies
from hermes.errors import InputError

_RAISED = re.compile(r"^\s+raise (?:Hermes|Input|Setting|UnsupportedModel)Error\(", re.MULTILINE)
_ELSEWHERE = ("hermes.cli", "hermes.forwarding", "hermes.testing", "hermes.analysis.command")


def _modules() -> Iterator[ModuleType]:
    for package in (hermes, hermes.policies, hermes.backbones, hermes.analysis):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            hidden = any(part.startswith("_") for part in found.name.split("."))
            if not hidden and not found.name.startswith(_ELSEWHERE):
                yield importlib.import_module(found.name)


def _functions(cls: type) -> Iterator[tuple[str, Any, Any]]:
    """Name, documented object and plain function of what a class itself defines."""
    for name, member in vars(cls).items():
        if isinstance(member, property):
            yield name, member, member.fget
        elif isinstance(member, functools.cached_property):
            yield name, member, member.func
        elif isinstance(member, (staticmethod, classmethod)) or inspect.isfunction(member):
            function = inspect.unwrap(getattr(member, "__func__", member))
            # What dataclasses and named tuples make has no source of its own.
            if function.__module__ == cls.__module__ and function.__code__.co_filename != "<string>":
                yield name, function, function


def _raises_unsaid(function: Any, *docs: str | None) -> bool:
    said = any(re.search(r"\b[Rr]aises\b", doc or "") for doc in docs)
    return not said and _RAISED.search(inspect.getsource(function)) is not None


def faults(module: ModuleType) -> list[str]:
    """What the docstrings of a module lack."""
    found = [] if module.__doc__ else [f"{module.__name__}: no docstring"]
    for name, obj in vars(module).items():
        plain = inspect.unwrap(obj) if callable(obj) else obj
        mine = getattr(obj, "__module__", "") == module.__name__
        if name.startswith("_") or not mine or not (inspect.isclass(plain) or inspect.isfunction(plain)):
            continue
        where, doc = f"{module.__name__}.{name}", vars(obj).get("__doc__") or plain.__doc__
        # A dataclass or named tuple without a docstring is given its signature as one.
        if not doc or doc.startswith(f"{name}("):
            found.append(f"{where}: no docstring")
        if inspect.isfunction(plain) and _raises_unsaid(plain, doc):
            found.append(f"{where}: raises, and does not say so")
        for member, documented, function in _functions(obj) if inspect.isclass(obj) else ():
            if not member.startswith("_") and not documented.__doc__:
                found.append(f"{where}.{member}: no docstring")
            entry = not member.startswith("_") or member in ("__init__", "__post_init__")
            if entry and _raises_unsaid(function, documented.__doc__, doc):
                found.append(f"{where}.{member}: raises, and does not say so")
    return found


def test_public_names_are_documented() -> None:
    found = [fault for module in _modules() for fault in faults(module)]
    assert not found, "\n".join(["", *found])


def test_every_package_is_walked() -> None:
    names = {module.__name__ for module in _modules()}
    assert {
        "hermes.session",
        "hermes.parts.scorers",
        "hermes.policies.fifo",
        "hermes.backbones.tiny",
        "hermes.analysis.study",
    } <= names
    assert not any(name.startswith(_ELSEWHERE) for name in names)


class Silent:
    @property
    def empty(self) -> int:
        return 0

    def __init__(self, size: int = 0) -> None:
        if size:
            raise InputError("too large")


def test_faults_are_found() -> None:
    module = ModuleType(__name__)
    module.__dict__.update(Silent=Silent)
    assert [fault.removeprefix(__name__) for fault in faults(module)] == [
        ": no docstring",
        ".Silent: no docstring",
        ".Silent.empty: no docstring",
        ".Silent.__init__: raises, and does not say so",
    ]
