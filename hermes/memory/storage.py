"""A memory's files: tensors as safetensors, everything else as JSON; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hermes.errors import InputError
from hermes.files import write_text_whole, write_whole

__all__ = ["load_record", "read_tensors", "write_memory"]

_TENSORS, _RECORD = "memory.safetensors", "memory.json"


def write_memory(folder: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and their record to a folder: ``memory.safetensors`` and ``memory.json``."""
    path, whole = Path(folder), {name: x.contiguous().clone() for name, x in tensors.items()}
    write_whole(path / _TENSORS, lambda aside: save_file(whole, aside))
    # Last: a folder with a record is a folder with all that belongs to it.
    write_text_whole(path / _RECORD, json.dumps(record, indent=1))


def load_record(folder: str | Path) -> dict[str, Any]:
    """What was written beside a memory's tensors.

    Raises:
        InputError: no saved memory.
    """
    path = Path(folder)
    if not (path / _RECORD).is_file() or not (path / _TENSORS).is_file():
        raise InputError(f"{path}: no saved memory ({_RECORD} and {_TENSORS}) in this folder")
    record: dict[str, Any] = json.loads((path / _RECORD).read_text())
    return record


def read_tensors(folder: str | Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a saved memory, by name."""
    found: dict[str, Tensor] = load_file(Path(folder) / _TENSORS, device=str(device))
    return found
