"""Tiny random Qwen3.5 models, dense and with experts: three gated delta-nets to one full attention, twice."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache

from hermes.backbone import Backbone, BackboneConfig
from hermes.backbones.qwen3_5 import Qwen3_5
from hermes.backbones.tiny import TinyQwen3VL, _Tiny
from tests.support.references import DenseDecoder, PlainMemory, axis_of_channel


class TinyQwen3_5(_Tiny, Qwen3_5):
    """Eight layers, of which 3 and 7 are managed; at most 9 tokens a frame pair and its timestamp."""

    model_types: ClassVar[tuple[str, ...]] = ()
    model_type = "qwen3_5"
    text: ClassVar[dict[str, Any]] = {
        "num_hidden_layers": 8,
        "head_dim": 64,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
    }
    vision: ClassVar[dict[str, Any]] = {
        key: value for key, value in TinyQwen3VL.vision.items() if not key.startswith("deepstack")
    }
    pixels = TinyQwen3VL.pixels
    token_ids = TinyQwen3VL.token_ids

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        backbone = super().load(config)
        with torch.no_grad():
            for number in backbone.managed:
                attention: Any = backbone.decoder.layers[number].self_attn  # type: ignore[index]
                # Norms of this family are centred on 1; keys of one length would all score alike.
                attention.q_norm.weight.add_(2.0)
                attention.k_norm.weight.add_(torch.linspace(0.5, 3.5, attention.head_dim))
        return backbone


class TinyQwen3_5Moe(TinyQwen3_5):
    """The same with four experts, two of them for each token."""

    model_type = "qwen3_5_moe"
    text: ClassVar[dict[str, Any]] = {
        **TinyQwen3_5.text,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    }


@cache
def tiny_hybrid(layout: str = "stream", *, experts: bool = False) -> Backbone:
    """Shared by all tests of a process: leave it as it is."""
    family = TinyQwen3_5Moe if experts else TinyQwen3_5
    return family.load(BackboneConfig(layout=layout))  # type: ignore[arg-type]


class DenseHybrid(DenseDecoder):
    """The decoder in plain float64: managed layers by hand, the others by their modules over their cache.

    Channels of keys are ordered here so that those a pair apart are half the width apart.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.decoder: Any = copy.deepcopy(backbone.decoder).double()
        config = backbone.text_config
        self.exact = not hasattr(config, "num_experts")
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width, self.numbers = config.head_dim, backbone.managed
        self.memory = PlainMemory(len(self.numbers), self.kv_heads, self.width, backbone.axes)
        self.states = DynamicCache(config=config)
        rope, half = config.rope_parameters, self.width // 2
        turned = int(self.width * rope["partial_rotary_factor"]) // 2
        turns = [rope["rope_theta"] ** (-c / turned) for c in range(turned)]
        self.frequencies = turns + [0.0] * (half - turned)
        self.axes = axis_of_channel(rope["mrope_section"], turned, True) + [0] * (half - turned)
        still = [*range(2 * turned, self.width)]
        first, second = still[: half - turned], still[half - turned :]
        self.order = [*range(turned), *first, *range(turned, 2 * turned), *second]

    @torch.no_grad()
    def run(
        self,
        embeds: Tensor,
        positions: Tensor,
        ids: Sequence[int] | None = None,
        deepstack: Sequence[Tensor] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """As the plain decoder's; the states always take the tokens in."""
        hidden, seen = embeds.double(), []
        for number, block in enumerate(self.decoder.layers):
            x = block.input_layernorm(hidden)[None]
            if number in self.numbers:
                out, weights = self._attend(self.numbers.index(number), block.self_attn, x[0], positions, ids)
                seen.append(weights)
            else:
                out = block.linear_attn(x, cache_params=self.states)[0]
            hidden = hidden + out
            x = block.post_attention_layernorm(hidden)[None]
            # Experts have no float64.
            hidden = hidden + (block.mlp(x) if self.exact else block.mlp.float()(x.float()).double())[0]
        return self.decoder.norm(hidden), seen

    def _attend(
        self, index: int, attention: Any, x: Tensor, positions: Tensor, ids: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        query, gate = attention.q_proj(x).view(len(x), self.heads, -1).chunk(2, dim=-1)
        key, value = (of(x).view(len(x), self.kv_heads, -1) for of in (attention.k_proj, attention.v_proj))
        query = attention.q_norm(query).double().transpose(0, 1)[..., self.order]
        key = attention.k_norm(key).double().transpose(0, 1)[..., self.order]
        value = value.transpose(0, 1)
        weights = self.attention(index, query, key, positions)
        out = []
        for head in range(self.heads):
            kv = head * self.kv_heads // self.heads
            out.append(weights[head] @ torch.cat((self.memory.layers[index][kv].values, value[kv])))
        for kv, held in enumerate(self.memory.layers[index] if ids is not None else ()):
            held.write(key[kv], value[kv], positions + held.clock, ids or (), [1] * len(x))
        gated = torch.stack(out, dim=1) * gate.sigmoid()
        return attention.o_proj(gated.flatten(1)), weights
