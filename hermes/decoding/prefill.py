"""Writing a chunk into a memory: one forward of the decoder, then the commit."""

from __future__ import annotations

from contextlib import suppress

import torch

from hermes.attention import AttentionProbe, StopForwardError, memory_attention_set, reading
from hermes.backbone import Backbone
from hermes.memory import KVMemory
from hermes.tokens import Chunk


@torch.no_grad()
def prefill(
    backbone: Backbone,
    memory: KVMemory,
    chunk: Chunk,
    *,
    probe: AttentionProbe | None = None,
    prefix: bool = False,
) -> None:
    """Run a chunk through the decoder on top of the memory and take its tokens in.

    After an exception, or an interruption, the memory is as it was.

    Args:
        probe: watches the chunk's attention.
        prefix: the chunk is the fixed prefix, never evicted.
    """
    if len(chunk) == 0:
        return
    try:
        with (
            memory_attention_set(backbone.model),
            suppress(StopForwardError),
            reading(memory, probe, chunk.tokens, positions=chunk.positions, writes_only=True),
        ):
            backbone.run(chunk.embeds, memory.next_position + chunk.positions, memory, chunk)
        memory.commit(chunk.positions, chunk.tokens, chunk.advance, prefix=prefix)
    except BaseException:
        memory.rollback()
        raise
