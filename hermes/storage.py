"""Saving and loading a memory: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hermes.errors import HermesError, InputError
from hermes.positions import Rotary
from hermes.provenance import Provenance

if TYPE_CHECKING:
    from hermes.memory import KVMemory


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


def load_memory(folder: str | Path, rotary: Rotary, device: torch.device | str = "cpu") -> KVMemory:
    """Read a memory written by :func:`save_memory`, bit for bit (this project).

    Args:
        rotary: of the decoder that wrote it (``backbone.rotary``).

    Raises:
        InputError: no such memory, or it belongs to a decoder with other position axes.
    """
    from hermes.memory import KVMemory

    path, record = Path(folder), load_record(folder)
    if record["axes"] != rotary.axes:
        raise InputError(f"{path}: saved with {record['axes']} position axes, this decoder has {rotary.axes}")
    memory = KVMemory(
        len(record["layers"]), rotary, keep_written=record["keep_written"], clock=record["clock"]
    )
    memory.next_summary_id = record["next_summary_id"]
    tensors = load_file(path / "memory.safetensors", device=str(device))
    for layer, entry in zip(memory.layers, record["layers"], strict=True):
        layer.prefix = entry["prefix"]
        layer.has_timestamps, layer.has_protected = entry["has_timestamps"], entry["has_protected"]
        own = {
            key.split(".", 1)[1]: t for key, t in tensors.items() if key.split(".", 1)[0] == str(layer.index)
        }
        if not own:
            continue
        layer.keys, layer.values = own["keys"], own["values"]
        layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
        layer.positions, layer.tokens, layer.clock = own["positions"], Provenance(own["tokens"]), own["clock"]
        if "written_keys" in own:
            layer.written = (own["written_keys"], own["written_positions"])
    memory.prefix = memory.layers[0].prefix
    memory.align()
    return memory


def check_file_path(path: str | Path, what: str) -> Path:
    """The path of a file that can be written, checked before anything long is begun (this project).

    Raises:
        InputError: it cannot; ``what`` was to be written.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path}: is a folder; {what} needs a file name")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: {folder} is not a folder that can be written to")
    return path
