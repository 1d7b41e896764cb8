"""Packages whose names are imported at first use, so that naming the package needs no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_face"]


def lazy_face(package: str, modules: Mapping[str, str]) -> tuple[list[str], Callable[[str], Any]]:
    """The ``__all__`` and ``__getattr__`` of a package.

    Type checkers need the same names below ``if TYPE_CHECKING``.

    Args:
        package: its name.
        modules: a module of it -> names that the package hands on, with spaces between.
    """
    where = {name: f"{package}.{module}" for module, names in modules.items() for name in names.split()}

    def look_up(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(where[name]), name)

    return sorted(where), look_up
