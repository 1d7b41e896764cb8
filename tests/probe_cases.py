"""Streams and plain references for the tests of observing."""

from __future__ import annotations

import random

import numpy as np

from hermes.video import Frame
from tests.memory_cases import random_update
from tests.references import (
    DenseDecoder,
    new_memory,
    noise_chunk,
    prefill,
)

LOCAL, OTHER = "What is the person doing now?", "Who is in the room?"


MIXED = LOCAL + " What happened before that?"


def frames(count: int, seed: int = 0) -> list[Frame]:
    images = np.random.default_rng(seed).integers(0, 256, (count, 84, 84, 3), dtype=np.uint8)
    return [Frame(image, i / 2, i) for i, image in enumerate(images)]


def filled(backbone, *, ragged: int = 0, mix: str = "none", batch: int = 1):
    """A memory and the dense reference of the same: a prefix and two chunks, ragged with so many rows."""
    rng, memory, dense = random.Random(1), new_memory(backbone), DenseDecoder(backbone)
    for seed, length in ((0, 5), (1, 20), (2, 12)):
        chunk = noise_chunk(backbone, length, seed, first_id=100 * seed, text=seed == 0, batch=batch)
        prefill(backbone, memory, chunk, prefix=seed == 0)
        ids = chunk.tokens.id.tolist()
        dense.run(chunk.embeds[0], chunk.positions, ids, [level[0] for level in chunk.deepstack])
        dense.memory.prefix = memory.prefix
        if ragged and seed:
            updates = {layer.index: random_update(rng, layer, heads=ragged, mix=mix) for layer in memory}
            memory.apply(updates, compact=seed == 2)
            dense.memory.apply(updates, seed == 2)
    return memory, dense
