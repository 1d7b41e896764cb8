"""Every shipped setting with its type, bounds and default, as users have them in their files."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hermes.config import Part, settings_table
from hermes.registry import KINDS, registry
from hermes.session.config import RunConfig

GOLDEN = Path(__file__).parent / "golden_settings.json"
# What can be chosen grows with every part that is added.
_CHOICES = re.compile(r" \([^()]*a dotted path\)")


def _settings(cls: type) -> dict[str, list[str]]:
    return {row.key: [_CHOICES.sub("", row.type), row.default] for row in settings_table(cls)}


def shipped() -> dict[str, dict[str, list[str]]]:
    found = {"run": _settings(RunConfig)}
    for kind in sorted(KINDS.keys() - {"command", "backbone"}):
        for name in registry(kind).names():
            cls = registry(kind).get(name)
            if isinstance(cls, type) and issubclass(cls, Part):
                found[f"{kind} {name}"] = _settings(cls)
    return found


def test_settings_keep_their_names_types_bounds_and_defaults() -> None:
    golden, found = json.loads(GOLDEN.read_text()), shipped()
    assert golden.keys() <= found.keys()
    for part, settings in golden.items():
        # A new setting is welcome; one that is there stays as it is.
        assert {key: found[part].get(key) for key in settings} == settings, part
