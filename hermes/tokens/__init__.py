"""Tokens before and in the memory: where each comes from, where it stands, and chunks of them."""

from hermes.tokens.chunk import Chunk, VideoState, join_chunks, split_frames, stack_chunks
from hermes.tokens.positions import Rotary, compacted, dense_ranks, expand_axes
from hermes.tokens.provenance import Provenance, TokenKind

__all__ = [
    "Chunk",
    "Provenance",
    "Rotary",
    "TokenKind",
    "VideoState",
    "compacted",
    "dense_ranks",
    "expand_axes",
    "join_chunks",
    "split_frames",
    "stack_chunks",
]
