"""Molmo2: what its tiny random models need (see `tiny_models.Tiny`), and its decoder in plain float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hermes.dialogue import chatml
from hermes.tokens import Chunk, TokenKind
from tests.support.references import DenseDecoder, rope

# As the larger ones of the family, on Qwen3: queries and keys normed by heads, all layers rotated alike.
MOLMO2: dict[str, Any] = {
    "model_type": "molmo2",
    "text": {"additional_vocab_size": 8},
    # Frames of 5 x 5 patches, tokens of 3 x 3 at most.
    "vision": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "image_size": [40, 40],
        "patch_size": 8,
    },
    "model": {
        "adapter_config": {
            "vision_feature_layer": [2, 0],
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "text_hidden_size": 64,
        }
    },
    "tokens": {
        "image_token": "<|image|>",
        "video_token": "<|video|>",
        "patch_token": "<im_patch>",
        "col_token": "<im_col>",
        "start_token": "<im_start>",
        "low_res_start_token": "<low_res_im_start>",
        "frame_start_token": "<frame_start>",
        "end_token": "<im_end>",
        "frame_end_token": "<frame_end>",
        "low_token": "<im_low>",
    },
    "token_ids": {
        "image_patch_id": "patch_token",
        "image_start_token_id": "start_token",
        "low_res_image_start_token_id": "low_res_start_token",
        "image_end_token_id": "end_token",
        "frame_start_token_id": "frame_start_token",
        "frame_end_token_id": "frame_end_token",
    },
    "image": "Molmo2ImageProcessor",
    "video": {
        "video_processor_type": "Molmo2VideoProcessor",
        "size": {"height": 40, "width": 40},
        "resample": 2,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "patch_size": 8,
        "pooling_size": [3, 3],
    },
    "template": chatml("<|video|>"),
}
# As the open one, on Olmo 3: normed as a whole and behind the layers, some of which are rotated otherwise.
MOLMO2_O: dict[str, Any] = {
    **MOLMO2,
    "text": {
        "additional_vocab_size": 8,
        "qk_norm_type": "olmo",
        "norm_after": True,
        "rope_scaling_layers": [1, 3],
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 5e5,
            "factor": 8.0,
            "original_max_position_embeddings": 4096,
            "attention_factor": 1.2,
        },
    },
}


class DenseMolmo2(DenseDecoder):
    """The decoder in plain float64: frames of a chunk see each other."""

    def rotation(self, number: int) -> tuple[list[float], float]:
        """Frequencies of a layer, and the factor of its turned keys and queries."""
        scaled = number in self.decoder.config.rope_scaling_layers
        embedding = self.decoder.rotary_emb if scaled else self.decoder.rotary_emb_unscaled
        return embedding.inv_freq.tolist(), float(embedding.attention_scaling)

    def attended(self, number: int, x: Tensor, at: Tensor, visual: Tensor, ids: list[int]) -> Tensor:
        """What a layer's attention makes of its input; its keys and values are written."""
        module, length = self.decoder.layers[number].self_attn, len(x)
        parts = [project(x) for project in (module.q_proj, module.k_proj, module.v_proj)]
        norms = (module.q_norm, module.k_norm)
        if module.qk_norm_type == "olmo":
            parts = [*(norm(part) for norm, part in zip(norms, parts, strict=False)), parts[2]]
        parts = [part.view(length, -1, self.width) for part in parts]
        if module.qk_norm_type == "qwen3":
            parts = [*(norm(part) for norm, part in zip(norms, parts, strict=False)), parts[2]]
        query, key, value = (part.transpose(0, 1).double() for part in parts)
        (frequencies, factor), out = self.rotation(number), []
        for head, turned in enumerate(query):
            kv = head * self.kv_heads // self.heads
            held = self.memory.layers[number][kv]
            where, past = at + held.clock, len(held.ids)
            places = torch.cat((held.positions, where), dim=1)
            keys = rope(torch.cat((held.keys, key[kv])), places, frequencies, self.axes)
            scores = rope(turned, where, frequencies, self.axes) @ keys.T
            scores = scores * factor**2 / self.width**0.5
            seen = torch.ones(length, past + length, dtype=torch.bool).tril(past)
            seen[:, past:] |= visual[:, None] & visual
            weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
            out.append(weights @ torch.cat((held.values, value[kv])))
        for kv, head in enumerate(self.memory.layers[number]):
            head.write(key[kv], value[kv], at + head.clock, ids, [1] * length)
        made: Tensor = module.o_proj(torch.cat(out, dim=-1))
        return made

    @torch.no_grad()
    def read(self, chunk: Chunk) -> Tensor:
        """Final states ``[n, hidden]`` of a chunk, which is written."""
        hidden, visual = chunk.embeds[0].double(), chunk.tokens.kind == int(TokenKind.VISUAL)
        for number, block in enumerate(self.decoder.layers):
            first, second = block.input_layernorm, block.post_attention_layernorm
            x = hidden if block.norm_after else first(hidden)
            x = self.attended(number, x, chunk.positions, visual, chunk.tokens.id.tolist())
            hidden = hidden + (first(x) if block.norm_after else x)
            x = block.mlp(hidden if block.norm_after else second(hidden))
            hidden = hidden + (second(x) if block.norm_after else x)
        made: Tensor = self.decoder.norm(hidden)
        return made


def whole_prompt(backbone: Any, frames: list[Any], question: str) -> dict[str, Any]:
    """What transformers' own processor gives for the whole video, the text cut into tokens at once."""
    patches, pooled = backbone.patches(frames)
    parts, shape = backbone.native_parts, backbone._shape(*frames[0].image.shape[:2])
    written = backbone.prompt.whole([[frame.time] for frame in frames], shape)
    ids = backbone.encode(f"{parts.prefix}{written}{parts.before}{question}{parts.after}")
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.isin(ids, torch.tensor(backbone.processor.image_token_ids)).long(),
        "pixel_values_videos": patches,
        "video_token_pooling": pooled,
        "video_grids": torch.tensor([[len(frames), 2, 2]]),
    }
