"""What a run was made with, and whether a folder is of that run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes.errors import InputError, SettingError
from hermes.files import write_text_whole

__all__ = ["DONE", "claim", "finish", "note"]

# In the folder of a sweep's cell that is done: what it came to.
DONE = "done.json"


def claim(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the manifest of a run to its folder, or see that the one that is there is of the same run.

    Raises:
        SettingError: the folder holds another run.
        InputError: a manifest that cannot be read.
    """
    path = folder / "manifest.json"
    # An empty one is what a machine that went down may leave.
    if path.exists() and path.stat().st_size:
        kept = _read(path)
        others = [key for key in ("config_hash", "weights", "questions") if kept.get(key, "") != about[key]]
        if others:
            hint = f"It holds a run with another {' and '.join(others)}: {path}."
            raise SettingError("output", str(folder), "a new folder, or one of this very run", hint)
        return
    _write(path, about)


def note(folder: Path, name: str, value: Any) -> None:
    """Add an entry to the manifest of a run, or replace it.

    Raises:
        InputError: a manifest that cannot be read.
    """
    path = folder / "manifest.json"
    _write(path, {**_read(path), name: value})


def finish(folder: Path, record: Mapping[str, Any]) -> None:
    """Say that a cell of a sweep is done, and what it came to."""
    _write(folder / DONE, record)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error


def _write(path: Path, about: Mapping[str, Any]) -> None:
    write_text_whole(path, json.dumps(about, indent=1) + "\n")
