"""A few frames as the decoder will read them, and how chunks are cut and joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.errors import InputError
from hermes.tokens.positions import dense_ranks
from hermes.tokens.provenance import Provenance, TokenKind

__all__ = ["Chunk", "VideoState", "join_chunks", "split_frames", "stack_chunks"]


@dataclass(frozen=True)
class Chunk:
    """A few frames as the decoder will read them.

    Attributes:
        embeds: decoder inputs ``[B, n, hidden]``, on the decoder's device.
        positions: float32 ``[A, n]``, on the decoder's device; relative to the clock where the chunk starts.
        advance: how far the clock moves; text or frames that follow start there.
        tokens: provenance of the n tokens, on the CPU.
        deepstack: per early decoder layer, ``[B, n, hidden]`` added to its output (zero where not visual);
            empty for most families.
        frames: number of frames seen in it.
        saliency: attention each token's patches receive in the vision encoder, where a policy wants it.
    """

    embeds: Float[Tensor, "B n hidden"]
    positions: Float[Tensor, "A n"]
    advance: int
    tokens: Provenance
    frames: int
    deepstack: tuple[Tensor, ...] = ()
    saliency: Float[Tensor, " n"] | None = None

    @staticmethod
    def text(embeds: Float[Tensor, "B n hidden"], axes: int, kind: TokenKind = TokenKind.TEXT) -> Chunk:
        """A text as a chunk, one position a token on every axis.

        >>> Chunk.text(torch.zeros(1, 3, 8), axes=1).positions
        tensor([[0., 1., 2.]])
        """
        length = embeds.shape[1]
        positions = torch.arange(length, dtype=torch.float32, device=embeds.device).expand(axes, length)
        return Chunk(embeds, positions, length, Provenance.text(length, kind=kind), 0)

    def __len__(self) -> int:
        return self.embeds.shape[1]

    @property
    def nbytes(self) -> int:
        """Of the embeddings, their positions and provenance."""
        held = (self.embeds, self.positions, self.tokens.table, *self.deepstack)
        return sum(tensor.nbytes for tensor in held)

    def to(self, device: torch.device) -> Chunk:
        """The same chunk with its embeddings and positions on another device."""
        deepstack = tuple(level.to(device) for level in self.deepstack)
        return replace(
            self, embeds=self.embeds.to(device), positions=self.positions.to(device), deepstack=deepstack
        )

    def select(self, index: Int[Tensor, " K"]) -> Chunk:
        """Only the tokens at ``index``, their positions unchanged (for the ``reduce`` hook)."""
        return replace(
            self,
            embeds=self.embeds.index_select(1, index),
            positions=self.positions.index_select(-1, index),
            tokens=self.tokens.select(index.cpu()),
            deepstack=tuple(feature.index_select(1, index) for feature in self.deepstack),
            saliency=None if self.saliency is None else self.saliency.index_select(0, index),
        )


@dataclass
class VideoState:
    """What a backbone remembers of one stream between chunks.

    ``advanced`` is how far the clock has moved since the first frame (needed by native layouts, whose
    positions restart from the first frame), ``frames`` and ``groups`` count what was encoded, ``next_id``
    is the next unused token id. ``tensors`` is for what a family compares the next frame with; tensors in
    it are replaced, never changed, and the mapping as well.
    """

    frames: int = 0
    groups: int = 0
    advanced: int = 0
    next_id: int = 0

    def __post_init__(self) -> None:
        self.tensors: Mapping[str, Tensor] = {}

    def add(self, *, frames: int, groups: int, advance: int, tokens: int) -> None:
        """Count a chunk that was encoded."""
        self.frames += frames
        self.groups += groups
        self.advanced += advance
        self.next_id += tokens


def split_frames(chunk: Chunk, clock: int = 0) -> list[Chunk]:
    """A chunk's frames with their timestamps, one chunk each, at positions moved by ``clock``."""
    numbers = chunk.tokens.frame
    out = []
    for number in numbers.unique_consecutive():
        one = chunk.select((numbers == number).nonzero().flatten().to(chunk.embeds.device))
        out.append(replace(one, positions=one.positions + clock, frames=1))
    return out


def join_chunks(pieces: Sequence[Chunk], advance: int, *, dense: bool = False) -> Chunk:
    """Pieces of a stream as one chunk.

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


def stack_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks of several streams as one with a batch axis.

    Raises:
        InputError: they differ in length or positions, as frames of different sizes do.
    """
    first = chunks[0]
    for chunk in chunks[1:]:
        if len(chunk) != len(first) or not torch.equal(chunk.positions, first.positions):
            raise InputError(
                "streams in lockstep must bring equally many tokens at the same positions: frames of one "
                "size, and as many of them"
            )
    return Chunk(
        torch.cat([chunk.embeds for chunk in chunks]),
        first.positions,
        first.advance,
        Provenance(torch.stack([chunk.tokens.table for chunk in chunks], dim=1)),
        first.frames,
        tuple(torch.cat(parts) for parts in zip(*(chunk.deepstack for chunk in chunks), strict=True)),
    )
