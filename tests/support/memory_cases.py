"""Random updates, writes and checks of a memory against plain references."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from hermes.attention import reading
from hermes.backbone import Backbone
from hermes.memory import KVMemory, LayerUpdate, Mix
from hermes.tokens import Provenance
from tests.support.references import (
    PlainMemory,
    new_memory,
    noise_chunk,
    prefill,
    rope,
    same_memory,
    toy_rotary,
)
from tests.support.tolerances import close


def sample(rng: random.Random, population, count: int) -> list[int]:
    return sorted(rng.sample(list(population), count))


def random_update(
    rng: random.Random, layer, *, heads: int = 1, mix: str = "none", batch: int = 1
) -> LayerUpdate:
    """A random choice of slots, other ones for every stream and head, and a random mix of the others."""
    rows = max(heads, layer.rows)
    count = rng.randint(1, layer.video_length)
    video = range(layer.prefix, layer.length)
    keep = [[[*range(layer.prefix), *sample(rng, video, count)] for _ in range(rows)] for _ in range(batch)]
    kept = torch.tensor(keep)
    evicted = [[[i for i in video if i not in row] for row in rows] for rows in keep]
    lost = layer.video_length - count
    if mix == "none" or lost == 0:
        return LayerUpdate(kept)
    if mix == "summary":
        weights = torch.rand(batch, rows, lost, generator=torch.Generator().manual_seed(rng.randrange(99)))
        return LayerUpdate(kept, Mix(torch.tensor(evicted), weights / weights.sum(-1, keepdim=True)))
    size = min(3, lost if mix == "groups" else count)
    members, groups = evicted, [[[*range(lost)] for _ in rows] for rows in keep]
    targets = None
    if mix == "targets":
        slots = [[sample(rng, row[layer.prefix :], size) for row in rows] for rows in keep]
        members = [[a + b for a, b in zip(t, e, strict=True)] for t, e in zip(slots, evicted, strict=True)]
        targets = torch.tensor(slots)
        groups = [[[*range(size + lost)] for _ in rows] for rows in keep]
    # The first of each group is given, so that none is empty.
    groups = [[[g if g < size else rng.randrange(size) for g in row] for row in rows] for rows in groups]
    of = torch.tensor(groups)
    weights = torch.rand(of.shape, generator=torch.Generator().manual_seed(rng.randrange(99))) + 0.1
    weights = weights / torch.zeros(batch, rows, size).scatter_add(2, of, weights).gather(2, of)
    return LayerUpdate(kept, Mix(torch.tensor(members), weights, of, size, targets))


def write(
    memory: KVMemory, plain: list[PlainMemory], length: int, first_id: int, prefix: bool = False
) -> None:
    """Random keys, as a forward pass at the shared clock would write them."""
    generator = torch.Generator().manual_seed(first_id)
    rotary, heads, width = memory.rotary, 2, 2 * len(memory.rotary.frequencies)
    positions = torch.arange(length).expand(rotary.axes, -1).float()
    if rotary.axes == 3 and not prefix:
        positions = torch.stack(
            (torch.arange(length) // 4 * 1.5, torch.arange(length) // 2 % 2, torch.arange(length) % 2)
        )
    frequencies, axes = rotary.frequencies.tolist(), rotary.axis.tolist()
    ids = torch.arange(first_id, first_id + length)
    with reading(memory) as scope:
        scope.attended = True  # keys are written by hand here
        for layer in memory:
            keys, values = torch.randn(2, len(plain), heads, length, width, generator=generator)
            shared = rope(keys, memory.next_position + positions, frequencies, axes).float()
            memory.update(shared, values, layer.index)
            for stream in plain:
                for head, held in enumerate(stream.layers[layer.index]):
                    where = positions + held.clock
                    held.write(
                        keys[stream.stream, head],
                        values[stream.stream, head],
                        where,
                        ids.tolist(),
                        [1] * length,
                    )
    advance = int(positions.max()) + 1
    memory.commit(
        positions,
        Provenance.of(length, id=ids, frame=ids // 4, kind=1, time_us=ids * 1000),
        advance,
        prefix=prefix,
    )
    for stream in plain:
        stream.prefix = memory.prefix


def toy(axes: int = 1, batch: int = 1, layers: int = 3, **options) -> tuple[KVMemory, list[PlainMemory]]:
    memory = KVMemory(layers, toy_rotary(axes), **options)
    plain = [PlainMemory(layers, 2, 8, axes, stream) for stream in range(batch)]
    write(memory, plain, 3, 0, prefix=True)
    write(memory, plain, 8, 100)
    return memory, plain


def check(memory: KVMemory, plain: list[PlainMemory]) -> None:
    for stream in plain:
        same_memory(memory, stream, memory.rotary.frequencies.tolist(), memory.rotary.axis.tolist())


def held_beside(
    backbone: Backbone,
    dense: Any,
    *,
    heads: int = 1,
    seed: int = 3,
    lengths: Sequence[tuple[int, int]] = ((0, 5), (1, 20), (2, 12), (3, 9)),
    compacted: Sequence[int] = (2,),
) -> KVMemory:
    """A memory of a prefix and chunks, some of each evicted, that reads each as the dense reference does.

    Args:
        lengths: number, which seeds the chunk, and tokens of each.
        compacted: chunks after whose eviction positions become dense.
    """
    rng, memory = random.Random(seed), new_memory(backbone)
    for number, length in lengths:
        chunk = noise_chunk(backbone, length, number, first_id=100 * number, text=number == 0)
        ours = prefill(backbone, memory, chunk, prefix=number == 0)
        levels = [level[0] for level in chunk.deepstack]
        expected, _ = dense.run(chunk.embeds[0], chunk.positions, chunk.tokens.id.tolist(), levels)
        dense.memory.prefix = memory.prefix
        close("one_shot", ours[0], expected.float())
        if number:
            updates = {layer.index: random_update(rng, layer, heads=heads) for layer in memory}
            memory.apply(updates, compact=number in compacted)
            dense.memory.apply(updates, number in compacted)
    return memory
