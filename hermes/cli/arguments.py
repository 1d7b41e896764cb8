"""What the command line allows beyond options: `key=value` anywhere, and `--choices A B C`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hermes.errors import InputError, nearest

_SETTING = re.compile(r"~?[A-Za-z_]\w*(\.[\w-]+)*=|~[A-Za-z_]\w*(\.[\w-]+)*$")
_CHOICES = "--choices"


def split_settings(words: Sequence[str | None]) -> tuple[list[str], list[str]]:
    """Positional arguments as (words, `key=value` settings), each in order.

    >>> split_settings(["clip.mp4", "policy=fifo", "What now?", None, "~policy.tiers.sensory"])
    (['clip.mp4', 'What now?'], ['policy=fifo', '~policy.tiers.sensory'])
    """
    given = [word for word in words if word is not None]
    settings = [word for word in given if _SETTING.match(word)]
    return [word for word in given if not _SETTING.match(word)], settings


def spread_choices(argv: Sequence[str]) -> list[str]:
    """`--choices A B C` as `--choices=A --choices=B --choices=C`; the next option, setting or `--` ends them.

    Raises:
        InputError: `--choices` without any.

    >>> spread_choices(["--choices", "red", "-1", "--at", "5"])
    ['--choices=red', '--choices=-1', '--at', '5']
    """
    out: list[str] = []
    choosing = False
    for at, word in enumerate(argv):
        if word == "--":
            return [*out, *argv[at:]]
        if word == _CHOICES:
            if at + 1 == len(argv) or _ends_choices(argv[at + 1]):
                raise InputError("--choices needs the options of the question: --choices A B C")
            choosing = True
        elif choosing and not _ends_choices(word):
            out.append(f"{_CHOICES}={word}")
        else:
            choosing = False
            out.append(word)
    return out


def _ends_choices(word: str) -> bool:
    if re.match(r"--?[A-Za-z]|--$", word):
        return True
    if not _SETTING.match(word):
        return False
    root, dotted = word.lstrip("~").partition("=")[0], "." in word.partition("=")[0]
    return dotted or word.startswith("~") or _resembles_setting(root)


def _resembles_setting(name: str) -> bool:
    """Whether `name=...` means a setting, perhaps mistyped: a choice such as `x=3` does not."""
    from hermes.config import settings_of
    from hermes.session.config import RunConfig

    return nearest(name, [*settings_of(RunConfig), "experiment"]) is not None
