"""What a run was made with, and whether a folder is of that run."""

from __future__ import annotations

import copy
import functools
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hermes.errors import InputError, SettingError
from hermes.files import plain_json, write_text_whole
from hermes.reading import MOST_DEPTH, Count, lies_in, read_object, with_types

__all__ = [
    "DONE",
    "PACKAGES",
    "claim",
    "differences",
    "finish",
    "machine_of",
    "note",
    "read_manifest",
    "run_file",
    "settings_difference",
    "settings_of",
]

_logger = logging.getLogger("hermes.evaluation")

# In the folder of a sweep's cell that is done: what it came to.
DONE = "done.json"
_MANIFEST = "manifest.json"
# What a manifest may hold; other entries are a program's own.
_ENTRIES: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("config_hash", "weights", "settings", "questions", "average", "fingerprint"), str),
        **dict.fromkeys(("dtype", "platform", "device", "device_name", "attention"), str),
        "prompts": dict[str, str] | None,
        "versions": dict[str, str | None],
        "judge": dict[str, Any],
        "mixed": list[dict[str, Any]],
        "threads": Count,
        "seed": int,
    }
)
# What runs have told from the beginning; and what they tell since answers are known to depend on it.
_ALWAYS = ("config_hash", "weights", "questions")
_SINCE = ("fingerprint", "dtype", "device", "attention")
# Whose versions answers may depend on.
PACKAGES = ("hermes-stream", "torch", "transformers")
# Settings that no answer depends on.
_APART = ("output", "trainer", "judge")
_ODD = (ValueError, TypeError, AttributeError, OverflowError, AssertionError, RecursionError)
_MOST_YAML, _MOST_BRACKETS = 1 << 18, 2000


def run_file(folder: Path, name: str) -> Path:
    """The path of a run's file; a link to another place is not followed.

    Raises:
        InputError: something else than a file is there, or a link that leads out of the folder.
    """
    path = folder / name
    try:
        if path.is_symlink() and not lies_in(path, folder):
            raise InputError(f"{path}: a link that leads out of the run's folder; needed: a file")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: needed: a file")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return path


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a run was made with.

    Raises:
        InputError: a manifest that cannot be read, or with an entry of the wrong type.
    """
    path = run_file(folder, _MANIFEST)
    return with_types(read_object(path), _ENTRIES, str(path))


def claim(
    folder: Path, about: Mapping[str, Any], *, anyway: bool = False, count: Callable[[], int] | None = None
) -> None:
    """Write the manifest of a run to its folder, or see that the one that is there is of the same run.

    A run goes on only with what made it: settings, weights, questions, number type, device, attention, and
    versions of Hermes, PyTorch and transformers. Of a run of an earlier version, whose manifest does not tell
    them all, what cannot be compared is said in a warning.

    Args:
        folder: of the run.
        about: what it is made with now.
        anyway: go on with what differs; the manifest then tells it under ``mixed``.
        count: how many answers are there already, where something differs.

    Raises:
        SettingError: the folder holds another run; every difference is named.
        InputError: a manifest that cannot be read.
    """
    path = run_file(folder, _MANIFEST)
    # An empty one is what a machine that went down may leave.
    if not path.exists() or not path.stat().st_size:
        _write(path, about)
        return
    kept = read_manifest(folder)
    settings_of(kept, str(path))
    if "fingerprint" in kept:
        found = differences(kept, about, [*_ALWAYS, *_SINCE, *PACKAGES])
    else:
        found = differences(kept, about, _ALWAYS)
        _warn_of_age(path, kept, about)
    if not found:
        return
    said = "; ".join(f"{name}: {was}, now {now}" for name, (was, now) in _named(kept, about, found).items())
    if not anyway:
        hint = (
            f"It holds a run with another {' and '.join(found)} ({said}): {path}. "
            "--anyway goes on all the same, and says so in the record."
        )
        raise SettingError("output", str(folder), "a new folder, or one of this very run", hint)
    _logger.warning("%s: goes on with what differs (%s)", folder, said)
    mixed = {
        "after_rows": count() if count else None,
        "differences": {key: list(values) for key, values in found.items()},
    }
    mixed["settings"] = {key: list(values) for key, values in _settings_apart(kept, about).items()}
    # From where on it began is said once.
    if all({**one, "after_rows": None} != {**mixed, "after_rows": None} for one in kept.get("mixed", [])):
        _write(path, {**kept, "mixed": [*kept.get("mixed", []), mixed]})


def _warn_of_age(path: Path, kept: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    unknown = [name for name in _SINCE if name not in kept]
    text = f"{path} is of an earlier version: cannot be compared: {', '.join(unknown)}"
    found = differences(kept, about, [name for name in (*_SINCE, *PACKAGES) if name not in unknown])
    if found:
        text += "; differs: " + "; ".join(f"{name}: {was}, now {now}" for name, (was, now) in found.items())
    _logger.warning("%s", text)


def differences(
    kept: Mapping[str, Any], about: Mapping[str, Any], names: Iterable[str]
) -> dict[str, tuple[str, str]]:
    """In which of these two manifests differ, by name."""
    pairs = {name: (_value(kept, name), _value(about, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def machine_of(about: Mapping[str, Any]) -> dict[str, str]:
    """What a manifest tells of the machine and the versions that answers may depend on, by name."""
    found = {name: _value(about, name) for name in (*_SINCE[1:], *PACKAGES)}
    return {name: value for name, value in found.items() if value not in ("", "-")}


def _value(about: Mapping[str, Any], name: str) -> str:
    if name in PACKAGES:
        return str((about.get("versions") or {}).get(name) or "-")
    value = str(about.get(name) or "")
    # Of two cards of one machine either may answer.
    return value.partition(":")[0] if name == "device" else value


def _named(
    kept: Mapping[str, Any], about: Mapping[str, Any], found: Mapping[str, tuple[Any, Any]]
) -> dict[str, tuple[Any, Any]]:
    """The differences, with the settings themselves in place of their hash."""
    settings = _settings_apart(kept, about) if "config_hash" in found else {}
    return {**settings, **{key: pair for key, pair in found.items() if key != "config_hash" or not settings}}


def _settings_apart(kept: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ and that answers may depend on."""
    pair = ({"settings": one.get("settings")} for one in (kept, about))
    found = settings_difference(*pair)
    return {key: values for key, values in found.items() if key.partition(".")[0] not in _APART}


def settings_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two manifests: dotted key, and its value in each (None: it has no such key).

    Hashes of what is compared anyway, and the folders of the runs, are left out.

    Raises:
        InputError: settings that cannot be read.

    >>> fifo, full = {"settings": "policy: {name: fifo, budget: 8}"}, {"settings": "policy: {name: full}"}
    >>> settings_difference(fifo, full)
    {'policy.name': ('fifo', 'full'), 'policy.budget': (8, None)}
    """
    flat_a, flat_b = _flat_manifest(a), _flat_manifest(b)
    keys = dict.fromkeys([*flat_a, *flat_b])
    return {key: (flat_a.get(key), flat_b.get(key)) for key in keys if flat_a.get(key) != flat_b.get(key)}


def _flat_manifest(about: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in about.items() if key not in ("settings", "config_hash", "prompts")}
    flat = {**dict(_flat("", settings_of(about))), **dict(_flat("", rest))}
    return {key: value for key, value in flat.items() if key != "output"}


def _flat(where: str, tree: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(tree, dict) or (where and not tree):
        yield where, tree
        return
    for key, value in tree.items():
        yield from _flat(f"{where}.{key}" if where else str(key), value)


def settings_of(manifest: Mapping[str, Any], where: str = _MANIFEST) -> dict[str, Any]:
    """The settings that a manifest tells, as they are written: they are data, and ``${...}`` stays text.

    Args:
        manifest: as read.
        where: its path, for errors.

    Raises:
        InputError: they are no YAML, repeat themselves by reference, or are nested too deep.
    """
    try:
        return copy.deepcopy(_parsed(str(manifest.get("settings") or "{}")))
    except InputError as error:
        raise InputError(f"{where}: settings {error}") from error


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> dict[str, Any]:
    try:
        # Brackets within each other take the parser time that grows with the square of their number.
        if len(text) > _MOST_YAML or text.count("[") + text.count("{") > _MOST_BRACKETS:
            raise InputError(f"are larger than {_MOST_YAML >> 10} KiB, or nested too deep")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH or isinstance(event, yaml.AliasEvent):
                raise InputError("are nested too deep, or refer to themselves")
        found = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    # Constructors of dates and numbers have errors of their own, and OmegaConf asserts.
    except (yaml.YAMLError, OmegaConfBaseException, *_ODD) as e:
        raise InputError(f"are no YAML: {' '.join(str(e).split())}") from e
    if not isinstance(found, dict):
        raise InputError("are no mapping")
    return {str(key): value for key, value in found.items()}


def note(folder: Path, name: str, value: Any) -> None:
    """Add an entry to the manifest of a run, or replace it.

    Raises:
        InputError: a manifest that cannot be read.
    """
    _write(run_file(folder, _MANIFEST), {**read_manifest(folder), name: value})


def finish(folder: Path, record: Mapping[str, Any]) -> None:
    """Say that a cell of a sweep is done, and what it came to."""
    _write(run_file(folder, DONE), record)


def _write(path: Path, about: Mapping[str, Any]) -> None:
    write_text_whole(path, json.dumps(plain_json(about), indent=1) + "\n")
