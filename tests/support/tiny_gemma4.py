"""Gemma 4: what its tiny random models need (see `tiny_models.Tiny`), and its decoder in plain float64."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from hermes.backbone import Backbone
from hermes.dialogue import chatml
from hermes.tokens import Chunk, TokenKind
from tests.support.references import PlainMemory, rope

GEMMA4: dict[str, Any] = {
    "model_type": "gemma4",
    # Smaller windows than a chunk; keys that are values; a fourth of the pairs rotated.
    "text": {
        "global_head_dim": 32,
        "num_global_key_value_heads": 1,
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "sliding_window": 11,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "attention_k_eq_v": True,
        "use_bidirectional_attention": "vision",
    },
    "vision": {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 8,
        "pooling_kernel_size": 2,
    },
    "model": {"audio_config": None},
    "tokens": {
        "boi_token": "<|image>",
        "image_token": "<|image|>",
        "eoi_token": "<image|>",
        "video_token": "<|video|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    },
    "token_ids": {
        "image_token_id": "image_token",
        "video_token_id": "video_token",
        "boi_token_id": "boi_token",
        "eoi_token_id": "eoi_token",
        "audio_token_id": "audio_token",
    },
    "video": {
        "video_processor_type": "Gemma4VideoProcessor",
        "patch_size": 8,
        "max_soft_tokens": 6,
        "pooling_kernel_size": 2,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
    },
    "template": chatml("<|video|>\n"),
}
# As the small ones of the family: embeddings in every layer, keys that later layers borrow, causal frames.
GEMMA4_SMALL: dict[str, Any] = {
    **GEMMA4,
    "text": {
        **GEMMA4["text"],
        "attention_k_eq_v": False,
        "num_kv_shared_layers": 3,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 600,
        "use_bidirectional_attention": None,
    },
}


class DenseGemma4:
    """The decoder in plain float64; of the model it uses weights, norms and feed-forward blocks.

    A window layer keeps all of the stream, and masks by counting tokens; a layer that borrows its keys reads
    those of the last one of its kind that has its own.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.decoder: Any = copy.deepcopy(backbone.decoder).double()
        self.config = backbone.text_config
        self.both_ways = self.config.use_bidirectional_attention == "vision"
        self.full = [kind == "full_attention" for kind in self.config.layer_types]
        own = len(self.full) - self.config.num_kv_shared_layers
        # For each layer the place of what it reads among the layers of its kind.
        self.places = [
            sum(self.full[at] == full for at in range(min(number, own))) - (number >= own)
            for number, full in enumerate(self.full)
        ]
        managed, windows = (self._memory(full, own) for full in (True, False))
        self.memory, self.windows = managed, windows

    def _memory(self, full: bool, own: int) -> PlainMemory:
        numbers = [number for number in range(own) if self.full[number] == full]
        attention = self.decoder.layers[numbers[0]].self_attn
        heads = attention.k_proj.out_features // attention.head_dim
        return PlainMemory(len(numbers), heads, attention.head_dim, 1)

    def frequencies(self, number: int) -> list[float]:
        settings = self.config.rope_parameters[self.config.layer_types[number]]
        width, base = self.decoder.layers[number].self_attn.head_dim, settings["rope_theta"]
        turning = int(settings.get("partial_rotary_factor", 1) * width // 2)
        return [base ** (-2 * pair / width) if pair < turning else 0.0 for pair in range(width // 2)]

    def hidden(self, number: int, held: int, visual: Tensor) -> Tensor:
        """Which of the tokens held and of its own ``[n, held + n]`` each token of a chunk does not see."""
        length = len(visual)
        seen = torch.ones(length, held + length, dtype=torch.bool).tril(held)
        if self.full[number]:
            return ~seen
        for i in range(length if self.both_ways else 0):
            for j in range(length):
                seen[i, held + j] |= bool(visual[min(i, j) : max(i, j) + 1].all())
        return ~seen.triu(held - self.config.sliding_window + 1)

    def attention(self, number: int, x: Tensor, new: dict[Any, Any], at: Tensor, visual: Tensor) -> Tensor:
        """What a layer's attention makes of its input; keys and values that are its own go to ``new``."""
        module, full, length = self.decoder.layers[number].self_attn, self.full[number], len(x)
        query = module.q_norm(module.q_proj(x).view(length, -1, module.head_dim)).transpose(0, 1)
        place = self.places[number]
        if not module.is_kv_shared_layer:
            key = module.k_proj(x).view(length, -1, module.head_dim)
            value = key if module.v_proj is None else module.v_proj(x).view(length, -1, module.head_dim)
            parts = module.k_norm(key).transpose(0, 1), module.v_norm(value).transpose(0, 1)
            new[full, place] = tuple(part.double() for part in parts)
        keys, values = new[full, place]
        heads = (self.memory if full else self.windows).layers[place]
        frequencies, axes, out = self.frequencies(number), [0] * (module.head_dim // 2), []
        for number_of, turned in enumerate(query):
            kv = number_of * len(heads) // len(query)
            head, where = heads[kv], at + heads[kv].clock
            past = rope(head.keys, head.positions, frequencies, axes)
            held = torch.cat((past, rope(keys[kv], where, frequencies, axes)))
            scores = rope(turned, where, frequencies, axes) @ held.T
            scores = scores.masked_fill(self.hidden(number, len(past), visual), float("-inf"))
            out.append(scores.softmax(-1) @ torch.cat((head.values, values[kv])))
        made: Tensor = module.o_proj(torch.cat(out, dim=-1))
        return made

    @torch.no_grad()
    def run(self, chunk: Chunk) -> Tensor:
        """Final states ``[n, hidden]`` of a chunk, which is written."""
        hidden, visual = chunk.embeds[0].double(), chunk.tokens.kind == int(TokenKind.VISUAL)
        extra, new = None, dict[Any, Any]()
        if self.config.hidden_size_per_layer_input:
            # What is no token of the vocabulary counts as padding.
            ids = torch.full((1, len(chunk)), self.config.pad_token_id)
            known = self.decoder.get_per_layer_inputs(ids)
            extra = self.decoder.project_per_layer_inputs(hidden[None], known.double())[0]
        for number, block in enumerate(self.decoder.layers):
            x = block.input_layernorm(hidden)
            x = self.attention(number, x, new, chunk.positions, visual)
            hidden = hidden + block.post_attention_layernorm(x)
            x = block.mlp(block.pre_feedforward_layernorm(hidden))
            hidden = hidden + block.post_feedforward_layernorm(x)
            if extra is not None:
                x = block.act_fn(block.per_layer_input_gate(hidden)) * extra[:, number]
                hidden = hidden + block.post_per_layer_input_norm(block.per_layer_projection(x))
            hidden = hidden * block.layer_scalar
        ids = chunk.tokens.id.tolist()
        for (full, place), (keys, values) in new.items():
            for kv, head in enumerate((self.memory if full else self.windows).layers[place]):
                head.write(keys[kv], values[kv], chunk.positions + head.clock, ids, [1] * len(ids))
        made: Tensor = self.decoder.norm(hidden)
        return made
