"""Keys rotated by a decoder's own code, whatever the memory knows of rotation."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from hermes.attention import StopForwardError
from hermes.backbone import Backbone

__all__ = ["rotated"]


def rotated(
    backbone: Backbone, layer: int, keys: Float[Tensor, "T D"], positions: Float[Tensor, "A T"]
) -> Float[Tensor, "T D"]:
    """Keys of a managed layer at positions, with the angles that its block is given and its own rotation.

    Channels are in the order of :attr:`Backbone.rotary` afterwards.
    """
    block: Any = backbone.decoder.layers[backbone.managed[layer]]  # type: ignore[index]
    cos, sin = _angles(backbone, block, positions)
    module = sys.modules[type(block.self_attn).__module__]
    apply = getattr(module, "apply_rotary_pos_emb", None)
    if apply is None:
        first, second = keys.chunk(2, dim=-1)
        turned = keys * cos[0] + torch.cat((-second, first), dim=-1) * sin[0]
    elif "k" in inspect.signature(apply).parameters:
        turned = apply(keys[None, None], keys[None, None], cos, sin)[1][0, 0]
    else:
        turned = apply(keys[None, None], cos, sin)[0, 0]
    return backbone.rotary.canonical(turned)


def _angles(backbone: Backbone, block: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines that a decoder layer is given for positions, ``[1, T, D]`` each."""
    found: list[tuple[Tensor, Tensor]] = []

    def catch(_: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        found.append(given["position_embeddings"])
        raise StopForwardError

    handle = block.register_forward_pre_hook(catch, with_kwargs=True)
    embeds = backbone.embed(torch.zeros(1, positions.shape[1], dtype=torch.long))
    try:
        with torch.no_grad(), suppress(StopForwardError):
            backbone.run(embeds, positions, DynamicCache(config=backbone.text_config))
    finally:
        handle.remove()
    return found[0]
