"""A memory of a decoder's first layers alone, and such a memory as named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hermes.memory.memory import KVMemory

__all__ = ["first_layers", "load_packed", "packed"]


def first_layers(memory: KVMemory, count: int) -> KVMemory:
    """A copy of the first managed layers, and of what lies before them, that shares every tensor.

    A chunk that is read into it alone leaves the decoder after the last of them.
    """
    copied = memory.fork()
    stop = memory.managed[count - 1].number + 1
    copied.cut(stop)
    return copied


def packed(memory: KVMemory) -> dict[str, Tensor]:
    """All that a memory holds, by layer and name; :func:`load_packed` takes it back."""
    out: dict[str, Tensor] = {}
    for number, layer in enumerate(memory.layers):
        facts = [int(fact) for fact in layer.facts().values()]
        named = {**layer.tensors(), "facts": torch.tensor(facts, dtype=torch.int64)}
        out |= {f"{number}.{name}": tensor for name, tensor in named.items()}
    return out


def load_packed(memory: KVMemory, state: Mapping[str, Tensor]) -> None:
    """Let a memory of the same layers hold what :func:`packed` gave.

    Raises:
        InputError: a state that does not fit the layer it is of.
        KeyError: a layer is missing.
    """
    device = memory.managed[0].clock.device if not memory.batch_size else memory.managed[0].keys.device
    found: list[tuple[Any, dict[str, int], dict[str, Tensor]]] = []
    for number, layer in enumerate(memory.layers):
        start = f"{number}."
        own = {k.removeprefix(start): x.to(device) for k, x in state.items() if k.startswith(start)}
        facts = dict(zip(layer.facts(), own.pop("facts").tolist(), strict=True))
        found.append((layer, facts, own))
    managed = [one for one in found if one[0] in memory.managed]
    for layer, facts, own in managed:
        layer.load(facts, own)
    memory.prefix = memory.managed[0].prefix
    # Before the windows are there, which would follow the clock.
    memory.sync_clocks()
    for layer, facts, own in found:
        if layer not in memory.managed:
            layer.load(facts, own)
