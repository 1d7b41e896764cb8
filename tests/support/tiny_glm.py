"""GLM-4.1V and GLM-4.6V: what their tiny random models need (see `tiny_models.Tiny`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hermes.backbone import Backbone
from hermes.dialogue import chatml
from tests.support.references import DenseDecoder

_TOKENS = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}

GLM4V: dict[str, Any] = {
    "model_type": "glm4v",
    # Even and odd channels in pairs, half of them rotated, M-RoPE in sections.
    "text": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 2],
        },
    },
    "vision": {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    },
    "tokens": _TOKENS,
    "token_ids": {
        "image_token_id": "image_token",
        "video_token_id": "video_token",
        "image_start_token_id": "image_start_token",
        "image_end_token_id": "image_end_token",
        "video_start_token_id": "video_start_token",
        "video_end_token_id": "video_end_token",
    },
    "video": {
        "video_processor_type": "Glm4vVideoProcessor",
        "size": {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 6 * 28 * 28},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
    },
    "template": chatml("<|begin_of_video|><|video|><|end_of_video|>"),
}
GLM46V: dict[str, Any] = {
    **GLM4V,
    "model_type": "glm46v",
    "text": {**GLM4V["text"], "model_type": "glm4v_text"},
    "vision": {**GLM4V["vision"], "model_type": "glm4v_vision"},
    "video": {**GLM4V["video"], "video_processor_type": "Glm46VVideoProcessor"},
}


class DenseGlm(DenseDecoder):
    """The decoder in plain float64, its rotation written out: 4 of 8 pairs, of even and odd channels."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.frequencies = [1e4 ** (-2 * c / 8) for c in range(4)] + [0.0] * 4
        self.axes = [0, 1, 2, 2, 0, 0, 0, 0]

    def project(self, index: int, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys with the even channels first."""
        order = [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]
        query, key, value = super().project(index, hidden)
        return query[..., order], key[..., order], value

    @torch.no_grad()
    def run(
        self,
        embeds: Tensor,
        positions: Tensor,
        ids: Sequence[int] | None = None,
        deepstack: Sequence[Tensor] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """As the plain decoder's, with a norm behind each part of a layer."""
        hidden, seen = embeds.double(), []
        for index, block in enumerate(self.decoder.layers):
            query, key, value = self.project(index, hidden)
            weights, held = self.attention(index, query, key, positions), self.memory.layers[index]
            groups = [head * self.kv_heads // self.heads for head in range(self.heads)]
            values = [torch.cat((held[kv].values, value[kv])) for kv in groups]
            out = torch.cat([weight @ part for weight, part in zip(weights, values, strict=True)], dim=-1)
            seen.append(weights)
            for kv, head in enumerate(held):
                head.write(key[kv], value[kv], positions + head.clock, ids or (), [1] * len(key[kv]))
            hidden = hidden + block.post_self_attn_layernorm(block.self_attn.o_proj(out))
            hidden = hidden + block.post_mlp_layernorm(block.mlp(block.post_attention_layernorm(hidden)))
        return self.decoder.norm(hidden), seen
