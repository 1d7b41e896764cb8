"""Saliency of visual tokens: the attention their patches receive in the vision encoder's last layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

from hermes.backbone.backbone import Backbone
from hermes.tokens import Chunk, VideoState
from hermes.video import Frame

NAME = "hermes_saliency"


@dataclass
class _Received:
    """Attention received, of the layer that was run last."""

    module: nn.Module | None = None
    parts: list[Tensor] = field(default_factory=list)


_received: ContextVar[_Received | None] = ContextVar("hermes_saliency", default=None)


def _attention(
    module: nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B H T D"],
    value: Float[Tensor, "B H T D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T H D"], None]:
    """SDPA, and note the mean attention each patch receives, over heads and queries."""
    seen = _received.get()
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if seen is not None:
        if seen.module is not module:
            seen.module, seen.parts = module, []
        # One frame at a time: [H, T, T] is the largest tensor.
        for q, k in zip(query.float(), key.float(), strict=True):
            seen.parts.append((q @ k.mT * scaling).softmax(-1).mean((0, 1)))
    out = F.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attention)


@contextmanager
def _watching(model: Any) -> Iterator[_Received]:
    before = model.config.vision_config._attn_implementation
    model.set_attn_implementation({"vision_config": NAME})
    token = _received.set(_Received())
    try:
        yield _received.get() or _Received()
    finally:
        _received.reset(token)
        model.set_attn_implementation({"vision_config": before})


def encode(
    backbone: Backbone, frames: Sequence[Frame], state: VideoState, fps: float, saliency: bool = False
) -> Chunk:
    """Frames as a chunk, with the saliency of its tokens if it is wanted.

    Source: arXiv 2510.18269 (StreamingTOM) ranks tokens by the vision encoder's attention; that it is the
    last layer's, mean over heads and queries of the same frame, is our reading.

    Raises:
        UnsupportedModelError: saliency is wanted, and the family does not tell it.
    """
    if not saliency:
        return backbone.video(frames, state, fps=fps)
    with torch.no_grad(), _watching(backbone.model) as seen:
        chunk = backbone.video(frames, state, fps=fps)
    return replace(chunk, saliency=backbone.token_saliency(torch.cat(seen.parts), chunk))
