"""Tokens put into a memory: those of another one, or blocks from an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from hermes.memory.layer import Tokens
from hermes.memory.memory import KVMemory
from hermes.tokens import Provenance, dense_ranks


def append_memory(memory: KVMemory, other: KVMemory) -> None:
    """Put the video tokens of another memory of the same prefix behind this one's.

    Positions go on from this memory's clock, layer by layer, and keys are turned to them. Windows and
    recurrent states stay this memory's: they hold what the stream made of them.
    """
    for own, more in zip(memory, other, strict=True):
        if own.positions is None or more.positions is None or not more.video_length:
            continue
        rows = max(own.rows, more.rows)
        own.widen(rows)
        more.widen(rows)
        prefix, held = more.prefix, more.positions
        start = torch.floor(held[..., :prefix].amax(dim=(0, -1))) + 1 if prefix else 0 * own.clock
        shift = (own.clock - start)[None, :, :, None].expand(*held.shape[:-1], held.shape[-1] - prefix)
        keys, places = own.rotary.rotate(more.video_keys(), shift), held[..., prefix:] + shift
        own.keys = torch.cat((own.keys[:, :, : own.length], keys), dim=2)
        own.values = torch.cat((own.values[:, :, : own.length], more.video_values()), dim=2)
        if own.written is not None:
            own.written = (
                torch.cat((own.written[0], keys), dim=2),
                torch.cat((own.written[1], places), dim=-1),
            )
        own.tokens = Provenance(torch.cat((own.origin.table, more.video.table), dim=-1))
        own.positions = torch.cat((own.positions, places), dim=-1)
        own.clock = own.clock + more.clock - start
        own.has_timestamps |= more.has_timestamps
        own.has_protected |= more.has_protected
    memory.sync_clocks()


def insert_blocks(
    memory: KVMemory,
    blocks: Mapping[int, Sequence[Tokens]],
    keep: Mapping[int, Int[Tensor, "B R K"]] | None = None,
) -> None:
    """Let layers hold their prefix, then blocks, then some of what they held, at contiguous positions.

    Source: arXiv 2503.00540 (ReKV): retrieved blocks count as consecutive tokens. Each block, and what is
    kept, starts one behind the largest position before it and is dense on every position axis; keys are
    rotated there from where they were. For one axis that is 0, 1, 2, ... Blocks are put into managed layers
    alone; windows and recurrent states stay as the stream left them.

    Args:
        memory: a fork, which is changed.
        blocks: per layer, in time order; layers not named stay as they are.
        keep: per layer, slots after the prefix that stay behind the blocks; none by default.
    """
    for index, found in blocks.items():
        layer = memory[index]
        device, dtype = layer.keys.device, layer.keys.dtype
        batch = layer.clock.shape[0]
        fixed = torch.arange(layer.prefix, device=device).expand(batch, 1, -1)
        parts = [layer.take(fixed), *(_moved(block, device, dtype) for block in found)]
        if keep is not None and index in keep and keep[index].shape[-1]:
            parts.append(layer.take(keep[index].to(device)))
        held = Tokens.cat(parts)
        places = [parts[0].positions.expand(-1, -1, held.positions.shape[2], -1)]
        clock = torch.floor(places[0].amax(dim=(0, -1))) + 1  # [B, R]
        for piece in held.positions.split([len(part) for part in parts], dim=-1)[1:]:
            places.append(dense_ranks(piece) + clock[None, ..., None])
            clock = places[-1].amax(dim=(0, -1)) + 1
        positions = torch.cat(places, dim=-1)
        keys = layer.rotary.rotate(held.keys, positions - held.positions)
        layer.hold(Tokens(keys, held.values, positions, held.origin))
    memory.sync_clocks()


def _moved(block: Tokens, device: torch.device, dtype: torch.dtype) -> Tokens:
    return Tokens(
        block.keys.to(device, dtype),
        block.values.to(device, dtype),
        block.positions.to(device),
        block.origin.to(device),
    )
