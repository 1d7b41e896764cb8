"""Decoder layers run one by one from their own modules, each at its own clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.attention import memory_attention, memory_attention_set
from hermes.backbone import Backbone
from hermes.decoding.parallel import processes_of
from hermes.memory import KVLayer, KVMemory, describe_layers
from hermes.tokens import Rotary, expand_axes

# Takes a layer's rotated queries and keys and its values, [B, heads, q, D]; returns [B, q, Hq, D].
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def run_block(
    block: Any, hidden: Float[Tensor, "B q hidden"], cos: Tensor, sin: Tensor, attend: Attend
) -> Float[Tensor, "B q hidden"]:
    """One decoder layer of the Qwen kind, from its own modules.

    Transformers' own forward runs hooks that cannot be compiled outside of the whole
    model's forward.

    Args:
        cos, sin: of the queries' positions, in the model's dtype, ``[B, 1, q, D]``.
        attend: does the attention, and whatever else is to be done with queries, keys and values.
    """
    attention, x = block.self_attn, block.input_layernorm(hidden)
    shape = (*x.shape[:-1], -1, attention.head_dim)
    query, key = attention.q_proj(x).view(shape), attention.k_proj(x).view(shape)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = (_turn(part.transpose(1, 2), cos, sin) for part in (query, key))
    seen = attend(query, key, attention.v_proj(x).view(shape).transpose(1, 2))
    hidden = hidden + attention.o_proj(seen.flatten(2))
    out: Tensor = hidden + block.mlp(block.post_attention_layernorm(hidden))
    return out


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotation in the model's dtype, as the model itself does it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotary_at(
    rotary: Rotary, positions: Float[Tensor, "A L B q"], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[L, B, 1, q, D]`` of positions in every layer."""
    angles = rotary.stretched(*rotary.angles(positions))
    cos, sin = (torch.cat((x, x), dim=-1).to(dtype) for x in angles)
    return cos.unsqueeze(2), sin.unsqueeze(2)


def clocks_of(layers: Iterable[KVLayer]) -> Float[Tensor, "L B"]:
    """The next position of every layer."""
    return torch.stack([layer.clock[:, 0] for layer in layers]).float()


@torch.no_grad()
def same_blocks(backbone: Backbone) -> bool:
    """Whether the decoder's layers compute what :func:`run_block` does: the first is tried."""
    generator = torch.Generator().manual_seed(0)
    width, axes = backbone.text_config.hidden_size, backbone.rotary.axes
    hidden = torch.randn(1, 4, width, generator=generator).to(backbone.device, backbone.dtype)
    positions = torch.arange(4.0, device=hidden.device)[None]
    module, blocks = backbone.decoder.rotary_emb, backbone.decoder.layers
    rotary = module(hidden, expand_axes(positions, axes) if axes > 1 else positions)  # type: ignore[operator]
    block: Any = blocks[0]  # type: ignore[index]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scaling = block.self_attn.scaling
        return memory_attention(block.self_attn, query, key, value, None, scaling, in_place=True)[0]

    try:
        with memory_attention_set(backbone.model):
            wanted = block(hidden, attention_mask=None, position_embeddings=rotary, past_key_values=None)
        at = expand_axes(positions[None], axes)
        cos, sin = rotary_at(backbone.rotary, at, hidden.dtype)
        ours = run_block(block, hidden, cos[0], sin[0], attend)
    except (AttributeError, TypeError, RuntimeError):
        return False
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    worst = (ours.float() - wanted.float()).abs().max()
    return bool(worst <= 16 * torch.finfo(hidden.dtype).eps * wanted.float().abs().max())


class LayerwiseDecoder:
    """Whether a backbone's decoder can be run layer by layer over a memory; its first layer is tried once.

    Args:
        backbone: a loaded model family.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    @cached_property
    def plain(self) -> bool:
        """Whether :func:`run_block` computes what the decoder's own layers do."""
        return same_blocks(self.backbone)

    def reason_not(self, memory: KVMemory) -> str | None:
        """Why the layers cannot be run one by one over this memory; None where they can."""
        if processes_of(self.backbone.model) is not None:
            return "the decoder's heads are split over processes"
        if memory.states:
            return f"the decoder has layers of other kinds ({describe_layers(memory.specs)})"
        if self.backbone.rotary.each:
            return "the decoder's layers rotate by frequencies of their own"
        if any(layer.rows > 1 for layer in memory.managed):
            return "KV heads hold tokens at positions of their own"
        if len({layer.keys.device for layer in memory.managed if layer.keys is not None}) > 1:
            return "the layers are on several devices"
        if not self.plain:
            return "the decoder's layers are not of the kind that is run in place"
        return None
