"""Frames that the first layers alone have read, held with their embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hermes.attention import Observer
from hermes.memory import KVMemory, LayerUpdate, first_layers, load_packed, packed
from hermes.policy.embedded_frames import Buffering
from hermes.policy.policy import StreamContext
from hermes.tokens import Chunk, join_chunks, split_frames

__all__ = ["ShallowReading"]

_OWN = "shallow/"


class ShallowReading(Buffering):
    """A policy whose stream goes through the first layers, which keep all of it; the memory holds the prefix.

    For arXiv 2609.02780 (ShallowStream). ``depth``, a setting of the subclass, is the share of the layers.
    """

    depth: float

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with nothing held."""
        super().start(context)
        # What the shallow layers hold, or a saved stream's; the pieces in it, and the clock behind them.
        self._shallow: KVMemory | None = None
        self._saved: dict[str, Tensor] = {}
        self.read, self.until = 0, 0

    def reduce(self, chunk: Chunk) -> Chunk:
        """Hold the frames; no layer reads them yet."""
        self.pieces = (*self.pieces, *split_frames(chunk, self.clock))
        return self.nothing(chunk)

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Let the shallow layers read what is new; the memory has nothing to evict."""
        if self.read < len(self.pieces):
            chunk = join_chunks(self.pieces[self.read :], self.clock - self.until)
            observe.read(replace(chunk, positions=chunk.positions - self.until), into=self.shallow(memory))
            self.read, self.until = len(self.pieces), self.clock
        return {}

    def shallow(self, memory: KVMemory) -> KVMemory:
        """What the shallow layers hold: the prefix of ``memory``, and all frames."""
        if self._shallow is None:
            self._shallow = first_layers(memory, max(round(self.depth * len(memory)), 1))
            if self._saved:
                load_packed(self._shallow, self._saved)
                self._saved = {}
        return self._shallow

    def _packed(self) -> Mapping[str, Tensor]:
        return self._saved if self._shallow is None else packed(self._shallow)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the embeddings, and of the shallow layers."""
        return super().resident_bytes + sum(tensor.nbytes for tensor in self._packed().values())

    def state(self) -> Mapping[str, Tensor]:
        """The embeddings, and what the shallow layers hold."""
        counts = torch.tensor([self.read, self.until])
        own = {f"{_OWN}{name}": tensor for name, tensor in self._packed().items()}
        return {**super().state(), **own, f"{_OWN}counts": counts}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold what :meth:`state` gave."""
        own = {name.removeprefix(_OWN): x for name, x in state.items() if name.startswith(_OWN)}
        self.read, self.until = own.pop("counts").tolist()
        self._saved = own
        super().restore({name: x for name, x in state.items() if not name.startswith(_OWN)})
