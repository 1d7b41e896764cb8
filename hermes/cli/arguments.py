"""What the command line allows beyond options: `key=value` anywhere, and `--choices A B C`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from hermes.errors import InputError, SettingError, nearest

_SETTING = re.compile(r"~?[A-Za-z_]\w*(\.[\w-]+)*=|~[A-Za-z_]\w*(\.[\w-]+)*$")
_CHOICES = "--choices"
# What comes after `--` is no setting: no argument of a process begins with this character.
_PLAIN = "\0"


def split_words(words: Sequence[str | None]) -> tuple[list[str], list[str]]:
    """The arguments of a command that takes other words besides settings, as (words, settings).

    A setting is `key=value` with a key that is one, or nearly one. Words are: a file of that name where the
    key is none, several words after a key without a dot (`x=5, is it shown?`), and all that comes after `--`.

    >>> split_words(["a=b.mp4", "x=5, is it shown?", "polcy=fifo", "~policy.tiers.sensory"])
    (['a=b.mp4', 'x=5, is it shown?'], ['polcy=fifo', '~policy.tiers.sensory'])
    """
    given = [word for word in words if word is not None]
    settings = [word for word in given if _means_setting(word)]
    return [word.removeprefix(_PLAIN) for word in given if not _means_setting(word)], settings


def _means_setting(word: str) -> bool:
    if not _SETTING.match(word):
        return False
    from hermes.config import settings_of
    from hermes.evaluation.running.settings import EvalConfig

    key, _, value = word.lstrip("~").partition("=")
    root, dot, _ = key.partition(".")
    several = re.search(r"\s", value.strip()) is not None and value.lstrip()[0] not in "[{'\""
    if root in _roots():
        return bool(dot) or not several or os.path.lexists(value)
    # Settings of other commands, too: they are no questions.
    known = [*_roots(), *settings_of(EvalConfig)]
    return not several and not os.path.lexists(word) and nearest(root, known) is not None


def split_settings(words: Sequence[str | None]) -> tuple[list[str], list[str]]:
    """Positional arguments as (words, `key=value` settings), each in order.

    Raises:
        SettingError: a file stands where the folder of `output=` is to be.

    >>> split_settings(["clip.mp4", "policy=fifo", "What now?", None, "~policy.tiers.sensory"])
    (['clip.mp4', 'What now?'], ['policy=fifo', '~policy.tiers.sensory'])
    """
    given = [word for word in words if word is not None]
    settings = [word for word in given if _SETTING.match(word)]
    for word in settings:
        key, _, value = word.partition("=")
        if key == "output" and os.path.exists(value) and not os.path.isdir(value):
            raise SettingError(key, value, "a folder", "There is a file of that name.")
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
            plain = (f"{_PLAIN}{rest}" if argv[0] == "ask" else rest for rest in argv[at + 1 :])
            return [*out, word, *plain]
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
    return nearest(name, _roots()) is not None


def _roots() -> list[str]:
    """What a dotted key may begin with."""
    from hermes.config import settings_of
    from hermes.session.config import RunConfig

    return [*settings_of(RunConfig), "experiment", "environment"]


def as_setting(option: str, argv: Sequence[str]) -> str:
    """The setting that is meant by an option that no command has, such as `--policy hermes`; or nothing.

    >>> as_setting("--policy", ["ask", "--policy", "hermes"]), as_setting("--seed", ["ask", "--seed=3"])
    ('policy=hermes', 'seed=3')
    >>> as_setting("--loud", ["ask", "--loud"])
    ''
    """
    from hermes.session.config import run_config

    name = option.lstrip("-").replace("-", "_")
    root = name.partition(".")[0]
    if root not in _roots():
        try:
            run_config([f"{name}=0"])
        except InputError as error:
            # It says where a setting of that name is.
            name = next(iter(re.findall(r"Did you mean '([\w.]+\.[\w.]+)'", str(error))), "")
    words = [word for word in argv if word == option or word.startswith(f"{option}=")]
    if not name or not words:
        return ""
    after = argv[list(argv).index(words[0]) + 1 :]
    value = words[0].partition("=")[2] or next((word for word in after if not word.startswith("-")), "VALUE")
    return f"{name}={value}"
