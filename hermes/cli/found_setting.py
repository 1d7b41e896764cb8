"""One setting by its dotted key: what it is, and what it is by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from hermes.config import settings_of
from hermes.config.schema import elements, words
from hermes.errors import SettingError, did_you_mean

__all__ = ["FoundSetting", "find_setting"]


class FoundSetting(NamedTuple):
    """A setting, or a group of them.

    Attributes:
        key: dotted.
        help: what it is for.
        allowed: its values, in words.
        value: by default.
        of: of which part, where the default is that of a part that can be another.
    """

    key: str
    help: str
    allowed: str
    value: Any
    of: str


def find_setting(key: str) -> FoundSetting | None:
    """The setting of this dotted key, among those of an evaluation; None if its first word is none.

    Raises:
        SettingError: there is no such setting below that word.

    >>> find_setting("video.fps").allowed, find_setting("fps")
    ('a number above 0, or null', None)
    """
    from hermes.evaluation.running.settings import eval_config

    value: Any = eval_config()
    hint: Any = type(value)
    help, of, limits, passed = "", "", dict[str, Any](), list[str]()
    for name in key.split("."):
        if isinstance(value, Mapping):
            known = dict(value)
            hint, limits = elements(hint)[2][1], {}
        elif dataclasses.is_dataclass(value):
            known = {one: getattr(value, one) for one in settings_of(type(value))}
            if name in known:
                one = settings_of(type(value))[name]
                hint, limits = one.type, dict(one.field.metadata)
                unit = f" ({limits['unit']})" if "unit" in limits else ""
                help = f"{limits.get('help', '')}{unit}"
        else:
            known = {}
        if name not in known:
            if not passed:
                return None
            where = ".".join(passed)
            raise SettingError(
                "hermes show", key, [f"{where}.{one}" for one in known], did_you_mean(name, known)
            )
        if name in known and hasattr(type(value), "kind") and passed:
            of = f" (of {'.'.join(passed)}={_name(value)})"
        value = known[name]
        passed.append(name)
    return FoundSetting(key, help, words(hint, limits), value, of)


def _name(part: Any) -> str:
    from hermes.registry import registry

    return registry(part.kind).name_of(type(part))
