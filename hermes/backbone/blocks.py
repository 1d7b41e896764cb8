"""Masks of chunks in which the tokens of a picture attend to each other both ways."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicSlidingWindowLayer

from hermes.memory import KVMemory

__all__ = ["block_masks"]


def block_masks(
    model: Any, embeds: Float[Tensor, "B n hidden"], visual: Bool[Tensor, "*streams n"], cache: Any
) -> Mapping[str, Tensor | None] | Tensor | None:
    """What a decoder is to be given as ``attention_mask`` for a chunk; None where that is causal everywhere.

    Within the chunk the rule is the model's own (``create_masks_for_generate``). What the cache held is seen
    by all, and what a window held as far as it reaches. A frame is never split, so neither is a block.

    Args:
        visual: which tokens are of pictures.
        cache: a memory, which adds what it held to a mask by itself, or any other cache.
    """
    make = getattr(model, "create_masks_for_generate", None)
    if make is None or "mm_token_type_ids" not in inspect.signature(make).parameters or not visual.any():
        return None
    kinds = visual.to(embeds.device).long().expand(embeds.shape[0], -1)
    masks = make(
        config=model.config,
        inputs_embeds=embeds,
        attention_mask=None,
        past_key_values=None,
        position_ids=None,
        mm_token_type_ids=kinds,
    )
    held = 0 if isinstance(cache, KVMemory) else cache.get_seq_length()
    if isinstance(masks, Tensor) or masks is None:
        return _all_behind(masks, held) if masks is not None and _looks_ahead(masks) else None
    if not any(_looks_ahead(mask) for mask in masks.values()):
        return None
    windows = [
        layer for layer in getattr(cache, "layers", ()) if isinstance(layer, DynamicSlidingWindowLayer)
    ]
    return {
        kind: _window_behind(mask, windows[0])
        if mask is not None and windows and kind == "sliding_attention"
        else _all_behind(mask, held)
        for kind, mask in masks.items()
    }


def _looks_ahead(mask: Tensor | None) -> bool:
    """Whether some token sees a later one."""
    if mask is None:
        return False
    seen = mask if mask.dtype == torch.bool else mask == 0
    return bool(seen.triu(1).any())


def _all_behind(mask: Tensor | None, held: int) -> Tensor | None:
    """The mask with tokens before its own that all see."""
    return mask if mask is None else F.pad(mask, (held, 0), value=mask.dtype == torch.bool)


def _window_behind(mask: Tensor, layer: DynamicSlidingWindowLayer) -> Tensor:
    """The mask with the tokens that a window holds before its own."""
    held = min(layer.cumulative_length, layer.sliding_window - 1)
    rows = torch.arange(mask.shape[-1], device=mask.device)[:, None]
    # Token j of the window is held - j before the chunk's first.
    before = torch.arange(held, device=mask.device)[None] - held > rows - layer.sliding_window
    if mask.dtype != torch.bool:
        hidden = torch.finfo(mask.dtype).min
        before = torch.zeros_like(before, dtype=mask.dtype).masked_fill(~before, hidden)
    return torch.cat((before.expand(*mask.shape[:2], -1, -1), mask), dim=-1)
