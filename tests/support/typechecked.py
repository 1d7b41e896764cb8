"""The runtime type checker that enforces tensor shapes in tests.

jaxtyping's own decorator checks every argument twice, binds them to names for its messages, and does so for
functions without any shape, too, which mypy has checked: half of the time that the tests took.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped


def _decorator(*context: Any, **options: Any) -> Any:
    """What the import hook puts on every function and class."""
    if context:
        return _jaxtyped(*context)
    return lambda thing: _checked(thing) if inspect.isfunction(thing) else _jaxtyped(**options)(thing)


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    if not _names_shapes(function):
        return function
    checked = check(function)

    @functools.wraps(function)
    def within_its_own_shapes(*args: Any, **kwargs: Any) -> Any:
        # One letter is one size, in all arguments and the result of a call.
        with _jaxtyped("context"):
            return checked(*args, **kwargs)

    return within_its_own_shapes


def _names_shapes(function: Callable[..., Any]) -> bool:
    words = re.findall(r"[A-Za-z_]\w*", " ".join(map(str, function.__annotations__.values())))
    found = (function.__globals__.get(word) for word in words)
    return any("jaxtyping" in f"{getattr(one, '__module__', '')} {one!r}" for one in found)


jaxtyping.jaxtyped = _decorator  # type: ignore[assignment]
