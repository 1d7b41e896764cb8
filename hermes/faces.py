"""Packages whose names are imported at first use, so that naming the package needs no torch."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["face"]


def face(package: str, file: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__all__``, ``__getattr__`` and ``__dir__`` of a package, as its ``__init__.pyi`` lists its names.

    Type checkers and editors read the same list.

    Args:
        package: its name.
        file: its ``__init__.py``.
    """
    listed = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    where = {
        alias.name: str(node.module)
        for node in listed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def look_up(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(where[name]), name)

    return sorted(where), look_up, lambda: sorted(where)
