"""Streams and plain references for the tests of observing."""

from __future__ import annotations

import random

import numpy as np
import torch

from hermes.video import Frame
from tests.support.memory_cases import random_update
from tests.support.references import (
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


def eager_attentions(backbone, chunks, text: str, kept=None):
    """Attention ``[Hq, n, T]`` of a text to the chunks before it, per layer, by transformers' eager forward.

    One pass of everything; the first chunk is text. The text sees the columns ``kept`` of each layer.
    """
    embeds = backbone.embed(backbone.encode(text))
    n, first, held = embeds.shape[1], len(chunks[0]), sum(map(len, chunks))
    embeds = torch.cat([*(chunk.embeds for chunk in chunks), embeds], dim=1)
    clocks = np.cumsum([0, *(chunk.advance for chunk in chunks)])
    relative = [chunk.positions for chunk in chunks] + [torch.arange(n).expand(backbone.axes, -1)]
    positions = torch.cat([p + int(c) for p, c in zip(relative, clocks, strict=True)], dim=1)
    extra = {}
    if chunks[1].deepstack:
        seen = torch.arange(held + n)[None]
        extra["visual_pos_masks"] = (seen >= first) & (seen < held)
        extra["deepstack_visual_embeds"] = [
            torch.cat([chunk.deepstack[level][0] for chunk in chunks[1:]]) for level in range(2)
        ]

    def hide(index):
        gone = sorted(set(range(held)) - set(kept[index]))

        def hook(module, args, kwargs):
            mask = kwargs["attention_mask"].clone()
            mask[:, :, held:, gone] = torch.finfo(mask.dtype).min
            return args, {**kwargs, "attention_mask": mask}

        return hook

    handles = [
        block.self_attn.register_forward_pre_hook(hide(index), with_kwargs=True)
        for index, block in enumerate(backbone.decoder.layers if kept is not None else ())
    ]
    backbone.model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad():
            out = backbone.decoder(
                inputs_embeds=embeds,
                position_ids=positions if backbone.axes == 1 else positions[:, None],
                output_attentions=True,
                use_cache=False,
                **extra,
            )
    finally:
        backbone.model.set_attn_implementation({"text_config": "sdpa"})
        for handle in handles:
            handle.remove()
    return [weights[0, :, -n:, :held] for weights in out.attentions]
