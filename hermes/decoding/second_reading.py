"""Reading a chunk a second time, behind the memory that holds it, for what it looks back at."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import torch

from hermes.attention import (
    AttentionProbe,
    AttentionView,
    SecondReading,
    StopForwardError,
    memory_attention_set,
    reading,
)
from hermes.backbone import Backbone
from hermes.memory import KVMemory
from hermes.tokens import Chunk, Provenance, TokenKind


def read_again(
    backbone: Backbone, memory: KVMemory, chunk: Chunk, how: SecondReading, probe: AttentionProbe
) -> None:
    """Read a chunk over a fork of the memory, up to the last layer that the probe asks for."""
    watched = max(probe.layers(len(memory)), default=None)
    if watched is None:
        return
    again, fork = _again(backbone, chunk, how), memory.fork()
    watch = _Until(probe, watched)
    with (
        memory_attention_set(backbone.model),
        suppress(StopForwardError),
        reading(fork, watch, again.tokens, positions=again.positions),
    ):
        backbone.run(again.embeds, fork.next_position + again.positions, fork, again)


def _again(backbone: Backbone, chunk: Chunk, how: SecondReading) -> Chunk:
    """What is read: the text that leads, and every n-th token of the chunk."""
    if how.stride > 1:
        chunk = chunk.select(torch.arange(0, len(chunk), how.stride, device=chunk.embeds.device))
    lead = how.lead + (backbone.template_parts.after if how.tail else "")
    if not lead:
        return chunk
    embeds = backbone.embed(backbone.encode(lead)).to(chunk.embeds.dtype)
    text = Chunk.text(embeds.expand(chunk.embeds.shape[0], -1, -1), chunk.positions.shape[0])
    # Tokens of no stream: only the chunk's have numbers.
    table = Provenance.of(len(text), kind=int(TokenKind.TEXT)).table
    if chunk.tokens.table.ndim == 3:
        table = table[:, None].expand(-1, chunk.tokens.table.shape[1], -1)
    return replace(
        chunk,
        embeds=torch.cat((text.embeds, chunk.embeds), dim=1),
        positions=torch.cat((text.positions, chunk.positions + len(text)), dim=-1),
        advance=chunk.advance + len(text),
        tokens=Provenance(torch.cat((table, chunk.tokens.table), dim=-1)),
        deepstack=tuple(torch.cat((torch.zeros_like(text.embeds), x), dim=1) for x in chunk.deepstack),
        saliency=None,
    )


class _Until(AttentionProbe):
    """Shows layers to a probe, and leaves the decoder after the last of them."""

    def __init__(self, probe: AttentionProbe, last: int) -> None:
        self.probe = probe
        self.last = last

    def layers(self, num_layers: int) -> Iterable[int]:
        return self.probe.layers(num_layers)

    def observe(self, view: AttentionView) -> None:
        self.probe.observe(view)
        if view.index == self.last:
            raise StopForwardError
