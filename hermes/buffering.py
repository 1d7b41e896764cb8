"""Frames held as embeddings, before any decoder layer, and read at the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from hermes.backbone import Chunk
from hermes.memory import KVMemory, LayerUpdate
from hermes.observe import Observer
from hermes.policy import MemoryPolicy, Recall, StreamContext
from hermes.positions import dense_ranks
from hermes.provenance import Provenance

__all__ = ["Buffering", "frames_of", "joined"]


def frames_of(chunk: Chunk, clock: int = 0) -> list[Chunk]:
    """A chunk's frames with their timestamps, one chunk each, at positions ``clock`` further (this project)."""
    numbers = chunk.tokens.frame
    out = []
    for number in numbers.unique_consecutive():
        one = chunk.select((numbers == number).nonzero().flatten().to(chunk.embeds.device))
        out.append(replace(one, positions=one.positions + clock, frames=1))
    return out


def joined(pieces: Sequence[Chunk], advance: int, *, dense: bool = False) -> Chunk:
    """Pieces of a stream as one chunk (this project).

    Args:
        advance: where the clock stands behind them.
        dense: count positions anew, without the gaps that dropped tokens left.
    """
    positions = torch.cat([piece.positions for piece in pieces], dim=-1)
    if dense:
        positions = dense_ranks(positions)
        advance = int(positions.amax()) + 1
    levels = zip(*(piece.deepstack for piece in pieces), strict=True)
    return Chunk(
        torch.cat([piece.embeds for piece in pieces], dim=1),
        positions,
        advance,
        Provenance.cat([piece.tokens for piece in pieces]),
        sum(piece.frames for piece in pieces),
        tuple(torch.cat(level, dim=1) for level in levels),
    )


@dataclass
class Buffering(MemoryPolicy):
    """A policy that holds frames as embeddings: the decoder reads them at the question, and nothing before.

    Source: this project, for arXiv 2603.02096 (FluxMem) and 2606.25658 (CausalMem), which reduce what a
    prefill reads. A subclass keeps ``pieces`` within bounds in ``reduce`` and ends it with :meth:`nothing`.
    """

    pieces: tuple[Chunk, ...] = field(default=(), init=False, repr=False, compare=False)
    clock: int = field(default=0, init=False, repr=False, compare=False)
    dense: bool = field(default=False, init=False, repr=False, compare=False)

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
        """Read all that is held."""
        if self.pieces:
            call.encode(joined(self.pieces, self.clock, dense=self.dense))
