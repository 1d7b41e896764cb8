"""Layers of several kinds behind transformers' cache interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import Any

import torch
from transformers.cache_utils import Cache

from hermes.kernels import Kernels
from hermes.memory.kinds import LayerSpec
from hermes.memory.layer import KVLayer
from hermes.memory.scope import being_read
from hermes.memory.states import RecurrentLayer, SharedLayer, StateLayer, WindowLayer
from hermes.tokens import Rotary

__all__ = ["LayeredCache"]


class LayeredCache(Cache):  # type: ignore[misc]
    """A transformers cache in which decoder layers of several kinds lie in their true order.

    Iterating, indexing and ``len`` count managed layers: what a policy sees.

    Args:
        specs: what each decoder layer remembers.
        rotary, window_rotary: of managed and of window layers.
        kernels: of managed layers.

    Attributes:
        layers: every decoder layer's.
        managed: those of full attention.
        states: the others.
        lender: lets a session's model read this memory in calls that are not the session's own.
        lent_next: the next position of each text in such calls, ``[B]``.
    """

    layers: list[KVLayer | StateLayer]

    def __init__(
        self, specs: Sequence[LayerSpec], rotary: Rotary, window_rotary: Rotary, kernels: Kernels
    ) -> None:
        super().__init__(layers=[])
        self.specs = tuple(specs)
        self.lender: Callable[[Any], None] | None = None
        self.lent_next = torch.zeros(1, dtype=torch.int64)
        self._hold(_layers(self.specs, rotary, window_rotary, kernels))

    def _hold(self, layers: list[KVLayer | StateLayer]) -> None:
        self.layers = layers
        self.managed = [layer for layer in layers if isinstance(layer, KVLayer)]
        self.states = [layer for layer in layers if isinstance(layer, StateLayer)]

    def cut(self, count: int) -> None:
        """Hold the first ``count`` decoder layers alone."""
        self.specs, self.lender = self.specs[:count], None
        self.__dict__.pop("last_written", None)
        self._hold(self.layers[:count])

    def __iter__(self) -> Iterator[KVLayer]:
        return iter(self.managed)

    def __getitem__(self, index: int) -> KVLayer:
        return self.managed[index]

    def __len__(self) -> int:
        return len(self.managed)

    @property
    def memory_bytes(self) -> int:
        """Bytes of keys, values, positions, provenance and states of all layers."""
        return sum(self.bytes_by_kind().values())

    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes held by the layers of each kind that holds something of its own."""
        found: dict[str, int] = {}
        for spec, layer in zip(self.specs, self.layers, strict=True):
            if spec.kind != "shared":
                own = sum(tensor.nbytes for tensor in layer.tensors().values())
                found[spec.kind] = found.get(spec.kind, 0) + own
        return found

    def read_by(self, number: int) -> KVLayer | StateLayer:
        """The layer whose keys a decoder layer attends to: its own, or the one it borrows them from."""
        source = self.specs[number].source
        return self.layers[number if source is None else source]

    @cached_property
    def last_written(self) -> int:
        """The last layer that holds something, if it is one of attention; else -1.

        Nothing is written once its attention has been reached.
        """
        number = max(at for at, spec in enumerate(self.specs) if spec.kind != "shared")
        return -1 if self.specs[number].kind == "recurrent" else number

    def begin(self) -> None:
        """A forward pass is about to write; :func:`hermes.attention.reading` calls this."""
        for state in self.states:
            state.begin()

    # -- what transformers asks: the shared clock, but where it names a window layer ------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The shared next position, pending tokens included.

        Of a memory that is lent (:attr:`lender`), the pending ones alone: a caller's own ``generate`` counts
        the tokens that it has given, and would leave out as many of them as the memory has positions.
        """
        if self.lender is not None and not being_read(self.managed):
            return self.managed[0].pending
        return self.managed[0].get_seq_length()

    @property
    def is_compileable(self) -> bool:
        """False. transformers' ``generate`` asks right before each forward: then the memory is lent."""
        if self.lender is not None and not being_read(self.managed):
            self.lender(self)
        return False

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Where the queries of a layer start: a window counts its own tokens."""
        return int(self._attended(layer_idx).get_seq_length())

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """How many keys a layer's mask covers, and from which on."""
        sizes: tuple[int, int] = self._attended(layer_idx).get_mask_sizes(query_length)
        return sizes

    def _attended(self, layer_idx: int) -> Any:
        layer = self.layers[layer_idx]
        return layer if isinstance(layer, KVLayer | WindowLayer) else self.managed[0]

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether a recurrent layer, the last by default, holds states."""
        if layer_idx is None:
            layer_idx = max(i for i, spec in enumerate(self.specs) if spec.kind == "recurrent")
        return bool(super().has_previous_state(layer_idx, state_idx))


def _layers(
    specs: Sequence[LayerSpec], rotary: Rotary, window_rotary: Rotary, kernels: Kernels
) -> list[KVLayer | StateLayer]:
    """Empty layers of these kinds; managed ones are counted among themselves."""
    out: list[KVLayer | StateLayer] = []
    index = count()
    for number, spec in enumerate(specs):
        if spec.kind == "managed":
            out.append(KVLayer(at := next(index), rotary.layer(at), kernels, number))
        elif spec.kind == "window":
            out.append(WindowLayer(number, spec, window_rotary))
        else:
            out.append((RecurrentLayer if spec.kind == "recurrent" else SharedLayer)(number, spec))
    return out
