"""Errors a user can cause, each saying what, where, what was given and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["HermesError", "InputError", "SettingError", "UnsupportedModelError", "did_you_mean", "nearest"]

# Characters of a value that an error quotes.
_SHOWN = 300


class HermesError(Exception):
    """Base of every error Hermes raises on purpose."""


class InputError(HermesError):
    """A bad input: a file, a question, a time. The command line exits with 2."""


class UnsupportedModelError(InputError):
    """A checkpoint whose model family Hermes does not know, or knows but cannot run."""


class SettingError(InputError):
    """A bad setting.

    Args:
        where: dotted key of the setting, such as `policy.tiers.sensory.share`; may be empty.
        given: the value that was given.
        allowed: what is allowed, in words or as the options themselves.
        hint: one more sentence, such as the nearest match.

    >>> print(SettingError("policy.share", "lots", "a number from 0 to 1"))
    policy.share: got 'lots'; allowed: a number from 0 to 1
    >>> names = ["fifo", "hermes"]
    >>> print(SettingError("policy", "hermse", names, did_you_mean("hermse", names)))
    policy: got 'hermse'; allowed: fifo, hermes. Did you mean 'hermes'?
    """

    def __init__(
        self, where: str, given: object, allowed: str | Iterable[object] | None = None, hint: str = ""
    ) -> None:
        self.where = where
        self.given = given
        self.allowed = allowed if allowed is None or isinstance(allowed, str) else list(allowed)
        self.hint = hint
        # All four arguments reach Exception, so that the error survives pickling between processes.
        super().__init__(where, given, self.allowed, hint)

    def __str__(self) -> str:
        given = repr(self.given)
        if len(given) > _SHOWN:
            given = f"{given[:_SHOWN]}... ({len(given)} characters)"
        text = f"{self.where}: got {given}" if self.where else f"got {given}"
        if self.allowed is not None:
            options = self.allowed if isinstance(self.allowed, str) else ", ".join(map(str, self.allowed))
            text += f"; allowed: {options or '(nothing)'}"
        return f"{text}. {self.hint}" if self.hint else text


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option closest to a mistyped name, or None if none is close.

    >>> nearest("Sensry", ["sensory", "working"])
    'sensory'
    """
    # The first of two options that differ only in case wins.
    lowered: dict[str, str] = {}
    for option in options:
        lowered.setdefault(option.lower(), option)
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`Did you mean 'x'?` for the nearest option, or an empty string.

    >>> did_you_mean("polcy", ["policy", "backbone"])
    "Did you mean 'policy'?"
    """
    found = nearest(name, options)
    return f"Did you mean {found!r}?" if found else ""
