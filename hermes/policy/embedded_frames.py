"""Frames held as embeddings, before any decoder layer, and read at the question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from hermes.attention import Observer
from hermes.memory import KVMemory, LayerUpdate
from hermes.policy.policy import MemoryPolicy, Recall, StreamContext
from hermes.tokens import Chunk, Provenance, join_chunks

__all__ = ["Buffering"]


class Buffering(MemoryPolicy):
    """A policy that holds frames as embeddings: the decoder reads them at the question, and nothing before.

    For arXiv 2603.02096 (FluxMem) and 2606.25658 (CausalMem), which reduce what a
    prefill reads. A subclass keeps ``pieces`` within bounds in ``reduce`` and ends it with :meth:`nothing`;
    where it has a setting ``dense``, positions are counted anew.
    """

    lockstep: ClassVar[bool] = False

    pieces: tuple[Chunk, ...]
    clock: int

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with nothing held."""
        super().start(context)
        self.pieces, self.clock = (), 0

    def nothing(self, chunk: Chunk) -> Chunk:
        """None of a chunk's tokens; its positions count as passed."""
        self.clock += chunk.advance
        none = torch.zeros(0, dtype=torch.int64, device=chunk.embeds.device)
        return replace(chunk.select(none), advance=0)

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Evict nothing: only the prefix is held."""
        return {}

    def recall(self, call: Recall) -> None:
        """Let the decoder read all frames that are held."""
        if self.pieces:
            whole = join_chunks(self.pieces, self.clock, dense=bool(getattr(self, "dense", False)))
            call.encode(whole.to(call.memory[0].keys.device))

    @property
    def resident_bytes(self) -> int:
        """Bytes of the embeddings, their positions and provenance."""
        return sum(piece.nbytes for piece in self.pieces)

    def state(self) -> Mapping[str, Tensor]:
        """What is held, as one chunk, the sizes of its pieces, and the clock."""
        counts = torch.tensor([self.clock, *map(len, self.pieces)])
        if not self.pieces:
            return {"counts": counts}
        whole = join_chunks(self.pieces, self.clock)
        named = {"embeds": whole.embeds, "positions": whole.positions, "table": whole.tokens.table}
        return {"counts": counts, **named, **{f"deep.{i}": x for i, x in enumerate(whole.deepstack)}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold the pieces of :meth:`state` again."""
        self.clock, *sizes = state["counts"].tolist()
        if not sizes:
            return
        columns = [state[name].split(sizes, -1) for name in ("positions", "table")]
        embeds = state["embeds"].split(sizes, 1)
        deep = [state[f"deep.{i}"].split(sizes, 1) for i in range(len(state) - 4)]
        self.pieces = tuple(
            Chunk(embeds[i], columns[0][i], 0, Provenance(columns[1][i]), 1, tuple(x[i] for x in deep))
            for i in range(len(sizes))
        )
