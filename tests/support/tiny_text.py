"""Tiny random text decoders, one a model type, as checkpoint folders."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import nn

from hermes.backbone import Backbone, load_backbone
from hermes.backbone.checkpoint import _quiet
from hermes.backbones.tiny import byte_tokenizer

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}
_WINDOWS = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"] * 2}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# What each model type has beside these sizes.
SERVED: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "gemma": {},
    "granite": {"attention_multiplier": 0.3, "residual_multiplier": 0.7, "embedding_multiplier": 3.0},
    "phi3": {},
    "olmo2": {},
    "starcoder2": {},
    "mixtral": {**_EXPERTS, "sliding_window": None},
    "qwen3_moe": _EXPERTS,
    # Some channels rotate.
    "gpt_neox": {"rotary_pct": 0.25, "num_key_value_heads": 4},
    "stablelm": {},
    # Even and odd channels are pairs.
    "glm": {},
    "cohere": {},
    # Some layers do not rotate.
    "smollm3": {"no_rope_layers": [1, 0, 1, 1]},
    # Windows or recurrent layers beside those of full attention.
    "gemma3_text": _WINDOWS,
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"] * 2},
}
REFUSED: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "bloom": {},
    "opt": {},
    "gptj": {"n_embd": 64, "n_layer": 4, "n_head": 4, "rotary_dim": 8, "n_inner": 128},
    "mamba": {},
    "gemma2": _WINDOWS,
    "gpt_oss": {**_EXPERTS, "layer_types": ["full_attention"] * 4},
    "deepseek_v3": {
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "first_k_dense_replace": 4,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
    },
}


def write_text_model(folder: Path, model_type: str, *, template: str | None = CHAT, **changes: Any) -> Path:
    """A random model of this type with a byte tokenizer, written as transformers writes them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = byte_tokenizer(template)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(
        model_type,
        **{
            **_SIZES,
            **(SERVED | REFUSED)[model_type],
            **ids,
            "bos_token_id": None,
            "vocab_size": len(tokenizer),
        },
        **changes,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        sharpen(model)
    model.generation_config.update(**ids, bos_token_id=None)
    with _quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def sharpen(model: nn.Module) -> None:
    """Make attention depend on content and position: with default weights it is nearly uniform everywhere."""
    for name, weight in model.named_parameters():
        if any(part in name for part in ("q_norm", "k_norm")):
            weight.copy_(torch.full_like(weight, 1.5))
        elif any(part in name for part in ("q_proj", "k_proj", "qkv_proj", "query_key_value")):
            weight.mul_(12.0) if weight.ndim > 1 else weight.normal_(std=0.5)


@cache
def text_model(model_type: str, layout: str = "stream", **settings: Any) -> Backbone:
    """The loaded backbone, shared by all tests of a process."""
    folder = write_text_model(Path(mkdtemp()) / model_type, model_type)
    return load_backbone({"checkpoint": str(folder), "layout": layout, **settings})
