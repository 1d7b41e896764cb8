"""Settings as YAML, as a hash and as a table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from hermes.config.schema import Named, elements, join, settings_of, to_dict, words

# What YAML leaves as it is, and a terminal would obey: other ends of lines, and other orders of letters.
_HIDDEN = re.compile("[\x85\u2028-\u202e\u2066-\u2069]")


class SettingRow(NamedTuple):
    """One setting in the documentation: dotted key, type in words, default, help."""

    key: str
    type: str
    default: str
    help: str


def resolved_yaml(obj: object) -> str:
    """Every setting of an object as YAML, in order.

    Raises:
        InputError: a value that no setting can hold.
    """
    plain = OmegaConf.create(to_dict(obj))
    text = OmegaConf.to_yaml(plain)
    if _HIDDEN.search(text):
        # The same values with letters beyond ASCII as escapes.
        given: Any = {"Dumper": get_omega_conf_dumper(), "sort_keys": False, "allow_unicode": False}
        text = str(yaml.dump(OmegaConf.to_container(plain), **given))
    return text


def config_hash(obj: object) -> str:
    """16 hexadecimal digits that depend on every setting, and on nothing else.

    A setting that came later than the first hashes (`setting(..., later=True)`) counts unless it is at its
    default, so that the hashes of older runs stay what they were.

    Raises:
        InputError: a value that no setting can hold.
    """
    # Unsorted: the order of tiers matters, and that of fields is the class's.
    text = json.dumps(to_dict(obj, hashing=True), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def settings_table(cls: type, where: str = "") -> list[SettingRow]:
    """The settings of a dataclass, one row each, nested dataclasses included.

    In a named mapping NAME stands for the entry's name. Parts have tables of their own.

    Raises:
        HermesError: the class itself is at fault.
    """
    rows = []
    for setting in settings_of(cls).values():
        key = join(where, setting.name)
        core, _, args = elements(setting.type)
        inner, at = (elements(args[1])[0], f"{key}.NAME") if core is dict else (core, key)
        if dataclasses.is_dataclass(inner) and isinstance(inner, type) and not issubclass(inner, Named):
            rows += settings_table(inner, at)
            continue
        default = setting.default()
        shown = "required" if default is dataclasses.MISSING else _short(to_dict(default))
        metadata = setting.field.metadata
        unit = f"({metadata['unit']})" if "unit" in metadata else ""
        help = f"{metadata.get('help', '')} {unit}".strip()
        rows.append(SettingRow(key, words(setting.type, metadata), shown, help))
    return rows


def _short(plain: Any) -> str:
    if isinstance(plain, dict) and "name" in plain:
        return str(plain["name"])
    return plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False)
