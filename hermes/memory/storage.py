"""Saving and loading a memory: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor

from hermes.errors import HermesError, InputError

if TYPE_CHECKING:
    from hermes.memory.memory import KVMemory


def save_memory(memory: KVMemory, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a memory to a folder: ``memory.safetensors`` and ``memory.json`` (this project).

    Raises:
        HermesError: tokens are pending.
    """
    if any(layer.pending for layer in memory.layers):
        raise HermesError("a memory with pending tokens cannot be saved: commit or roll back first")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    layers = []
    for layer in memory.layers:
        for name, tensor in layer.tensors().items():
            tensors[f"{layer.index}.{name}"] = tensor.contiguous().clone()
        flags = {"has_timestamps": layer.has_timestamps, "has_protected": layer.has_protected}
        layers.append({"prefix": layer.prefix, **flags})
    record: dict[str, Any] = {
        "format": 1,
        "clock": memory.clock_mode,
        "keep_written": memory.keep_written,
        "next_summary_id": memory.next_summary_id,
        "axes": memory.rotary.axes,
        "layers": layers,
    }
    record |= extra or {}
    # Written aside and renamed: an interruption leaves what was there, or nothing.
    save_file(tensors, path / "memory.safetensors.part")
    (path / "memory.json.part").write_text(json.dumps(record, indent=1))
    for name in ("memory.safetensors", "memory.json"):
        (path / f"{name}.part").replace(path / name)


def load_record(folder: str | Path) -> dict[str, Any]:
    """What was written beside a memory's tensors (this project).

    Raises:
        InputError: no saved memory.
    """
    path = Path(folder)
    if not (path / "memory.json").is_file() or not (path / "memory.safetensors").is_file():
        raise InputError(f"{path}: no saved memory (memory.json and memory.safetensors) in this folder")
    record: dict[str, Any] = json.loads((path / "memory.json").read_text())
    return record
