"""A memory as it was saved: its record and tensors, checked, and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hermes.config import build, setting
from hermes.errors import InputError
from hermes.memory.kinds import LayerSpec, describe_layers
from hermes.memory.memory import KVMemory
from hermes.memory.storage import read_saved, read_tensors
from hermes.tokens import Provenance, Rotary

__all__ = ["load_memory", "memory_of"]

_MOST_STATES = 64


def load_memory(
    folder: str | Path,
    rotary: Rotary,
    device: torch.device | str = "cpu",
    *,
    window_rotary: Rotary | None = None,
) -> KVMemory:
    """Read a memory written by :meth:`KVMemory.save`, bit for bit.

    Args:
        rotary: of the decoder that wrote it (``backbone.rotary``).
        window_rotary: of its window layers, if that is another.

    Raises:
        InputError: no such memory, it is damaged, or it belongs to a decoder with other position axes.
    """
    return read_saved(
        folder, lambda record: memory_of(folder, record, rotary, device, window_rotary=window_rotary)
    )


@dataclass(kw_only=True)
class _Layer:
    prefix: int = setting(ge=0)
    has_timestamps: bool
    has_protected: bool


@dataclass(kw_only=True)
class _State:
    number: int
    seen: int = setting(0, ge=0)


@dataclass(kw_only=True)
class _Memory:
    """What the record of a saved memory holds."""

    clock: Literal["per_layer", "first_layer"]
    keep_written: bool
    next_summary_id: int = setting(ge=-(2**62), le=-2)
    axes: int
    layers: list[_Layer]
    # Of decoders with layers that are not managed.
    kinds: list[LayerSpec] = setting([])
    states: list[_State] = setting([])


def memory_of(
    folder: str | Path,
    record: Mapping[str, Any],
    rotary: Rotary,
    device: torch.device | str = "cpu",
    *,
    specs: Sequence[LayerSpec] | None = None,
    window_rotary: Rotary | None = None,
) -> KVMemory:
    """The memory that a record describes, as :func:`load_memory`; every field is checked.

    Args:
        specs: what the layers of the decoder at hand remember, to be compared; nothing by default.

    Raises:
        InputError: it is damaged, or of a decoder with other position axes or other kinds of layers.
    """
    path = Path(folder)
    own = {field.name: record[field.name] for field in fields(_Memory) if field.name in record}
    about = build(_Memory, own, str(path / "memory.json"))
    if about.axes != rotary.axes:
        raise InputError(f"{path}: saved with {about.axes} position axes, this decoder has {rotary.axes}")
    memory = KVMemory(
        _specs(path, about, specs),
        rotary,
        keep_written=about.keep_written,
        clock=about.clock,
        window_rotary=window_rotary,
    )
    memory.next_summary_id = about.next_summary_id
    held: dict[str, dict[str, Tensor]] = {str(layer.index): {} for layer in memory}
    held |= {f"state.{state.number}": {} for state in memory.states}
    for key, tensor in read_tensors(path, record, "memory", device).items():
        index, _, name = key.rpartition(".")
        if index not in held:
            raise InputError(f"{path}: {key}: a tensor of a layer that there is not")
        held[index][name] = tensor
    for layer, facts in zip(memory, about.layers, strict=True):
        tensors = held[str(layer.index)]
        if flaw := _flaw(tensors, layer.rotary, facts.prefix, about.keep_written):
            raise InputError(f"{path}: layer {layer.index}: {flaw}")
        layer.load(vars(facts), tensors)
    if len({(layer.prefix, layer.length and layer.dtype) for layer in memory}) != 1:
        raise InputError(f"{path}: layers: none, or they differ in prefix or number type")
    memory.prefix = memory.managed[0].prefix
    # Before the windows are there, which would follow the clock.
    memory.sync_clocks()
    for state, seen in zip(memory.states, about.states, strict=True):
        tensors = held[f"state.{state.number}"]
        streams = {tensor.shape[:1] for tensor in tensors.values()}
        if any(size != (memory.batch_size,) for size in streams):
            raise InputError(f"{path}: states.{state.number}: not of {memory.batch_size} streams")
        try:
            state.load(vars(seen), tensors)
        except InputError as error:
            raise InputError(f"{path}: states.{state.number}: {error}") from error
    return memory


def _specs(path: Path, about: _Memory, wanted: Sequence[LayerSpec] | None) -> list[LayerSpec]:
    """What the record says of its layers, checked."""
    specs = about.kinds or [LayerSpec("managed")] * len(about.layers)
    if wanted is not None and list(wanted) != specs:
        raise InputError(
            f"{path}: saved with layers {describe_layers(specs)}, this decoder has {describe_layers(wanted)}"
        )
    other = [number for number, spec in enumerate(specs) if spec.kind != "managed"]
    if len(specs) - len(other) != len(about.layers) or other != [each.number for each in about.states]:
        raise InputError(f"{path}: kinds: they do not fit the layers and the states")
    for number, spec in enumerate(specs):
        fits = (
            (spec.window is not None and spec.window > 1) == (spec.kind == "window")
            and (spec.source in range(number)) == (spec.kind == "shared")
            and 0 < spec.states <= _MOST_STATES
        )
        if not fits:
            raise InputError(f"{path}: kinds.{number}: {spec} is no layer of a decoder")
    return specs


def _flaw(tensors: Mapping[str, Tensor], rotary: Rotary, prefix: int, keep_written: bool) -> str | None:
    """What is wrong with tensors that :meth:`KVLayer.load` is to hold; None where they fit each other."""
    if not tensors:
        return "prefix: there are no tokens" if prefix else None
    names = {"keys", "values", "positions", "tokens", "clock"}
    names |= {"written_keys", "written_positions"} if keep_written else set()
    if names != tensors.keys():
        return f"{', '.join(sorted(names ^ tensors.keys()))}: missing, or too many"
    keys, positions = tensors["keys"], tensors["positions"]
    if keys.ndim != 4 or positions.ndim != 4 or not keys.is_floating_point():
        return f"keys: shape {list(keys.shape)} of {keys.dtype}, positions: shape {list(positions.shape)}"
    (batch, heads, length, _), rows = keys.shape, positions.shape[2]
    wanted: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "keys": ((batch, heads, length, 2 * len(rotary.frequencies)), keys.dtype),
        "positions": ((rotary.axes, batch, rows, length), torch.float32),
        "tokens": ((len(Provenance.of(0).table), batch, rows, length), torch.int64),
        "clock": ((batch, rows), torch.float32),
    }
    wanted |= {"values": wanted["keys"], "written_keys": wanted["keys"]}
    wanted["written_positions"] = wanted["positions"]
    for name, tensor in tensors.items():
        shape, dtype = wanted[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            given = f"{list(tensor.shape)} of {tensor.dtype}"
            return f"{name}: shape {given}, where {list(shape)} of {dtype} belongs"
        if name in ("positions", "clock", "written_positions") and not bool(tensor.isfinite().all()):
            return f"{name}: not a number"
    if rows not in (1, heads) or prefix > length or not batch:
        return f"positions: {rows} rows of {length} tokens, for {heads} heads and a prefix of {prefix}"
    return None
