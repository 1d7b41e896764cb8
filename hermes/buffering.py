"""Frames held as embeddings, before any decoder layer, and read at the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from hermes.backbone import Chunk
from hermes.memory import KVMemory, LayerUpdate
from hermes.observe import Observer
from hermes.policy import MemoryPolicy, Recall, StreamContext
from hermes.positions import dense_ranks
from hermes.provenance import Provenance

__all__ = ["Buffering", "frames_of", "joined"]


def frames_of(chunk: Chunk, clock: int = 0) -> list[Chunk]:
    """A chunk's frames with their timestamps, one chunk each, at positions moved by ``clock``.

    Source: this project.
    """
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


class Buffering(MemoryPolicy):
    """A policy that holds frames as embeddings: the decoder reads them at the question, and nothing before.

    Source: this project, for arXiv 2603.02096 (FluxMem) and 2606.25658 (CausalMem), which reduce what a
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
        """Read all that is held."""
        if self.pieces:
            whole = joined(self.pieces, self.clock, dense=bool(getattr(self, "dense", False)))
            call.encode(_on(whole, call.memory[0].keys.device))

    @property
    def resident_bytes(self) -> int:
        """Of the embeddings, their positions and provenance."""
        return sum(_bytes(piece) for piece in self.pieces)

    def state(self) -> Mapping[str, Tensor]:
        """What is held, as one chunk, the sizes of its pieces, and the clock."""
        counts = torch.tensor([self.clock, *map(len, self.pieces)])
        if not self.pieces:
            return {"counts": counts}
        whole = joined(self.pieces, self.clock)
        named = {"embeds": whole.embeds, "positions": whole.positions, "table": whole.tokens.table}
        return {"counts": counts, **named, **{f"deep.{i}": x for i, x in enumerate(whole.deepstack)}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take it up."""
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


def _bytes(piece: Chunk) -> int:
    held = (piece.embeds, piece.positions, piece.tokens.table, *piece.deepstack)
    return sum(tensor.nbytes for tensor in held)


def _on(chunk: Chunk, device: torch.device) -> Chunk:
    deep = tuple(level.to(device) for level in chunk.deepstack)
    return replace(
        chunk, embeds=chunk.embeds.to(device), positions=chunk.positions.to(device), deepstack=deep
    )
