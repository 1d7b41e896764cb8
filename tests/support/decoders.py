"""Random text decoders of transformers with no eyes, for what concerns the decoder alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from hermes.backbone import Backbone, BackboneConfig
from hermes.tokens import Chunk, VideoState
from hermes.video import Frame

_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
_COMMON = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WINDOWS = ["sliding_attention", "full_attention"] * 2
_EYES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_GEMMA4 = {
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "sliding_window": 9,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "attention_k_eq_v": True,
    "use_bidirectional_attention": "vision",
}
# What differs between model types; those with three axes say it themselves.
SETTINGS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 32},
    "glm4": {"head_dim": 16},
    "gpt_neox": {},
    "cohere": {},
    "smollm3": {},
    "qwen2_vl": {
        "text_config": {"rope_parameters": _MROPE},
        "vision_config": {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64},
    },
    "glm4v": {
        "text_config": {
            "rope_parameters": {**_MROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
        },
        "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2},
    },
    "qwen3_5_text": {
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "rope_parameters": {
            **_MROPE,
            "partial_rotary_factor": 0.5,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    },
    "gemma4_text": {
        "head_dim": 16,
        "global_head_dim": 32,
        "layer_types": _WINDOWS,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
    },
    "gemma4": {
        "text_config": _GEMMA4,
        "vision_config": _EYES,
        "audio_config": None,
        "image_token_id": 250,
        "video_token_id": 251,
        "audio_token_id": 252,
    },
    # As the small ones of the family are: embeddings per layer, keys that later layers borrow.
    "gemma4 small": {
        "text_config": {
            **_GEMMA4,
            "attention_k_eq_v": False,
            "num_kv_shared_layers": 3,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 256,
            "use_bidirectional_attention": None,
        },
        "vision_config": _EYES,
        "audio_config": None,
    },
    "molmo2": {
        "text_config": {"head_dim": 16, "qk_norm_type": "qwen3", "additional_vocab_size": 8},
        "vision_config": _EYES,
        "adapter_config": {**_EYES, "text_hidden_size": 64, "vision_feature_layer": [0, 1]},
    },
    "gemma2": {"head_dim": 16, "layer_types": _WINDOWS},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": _WINDOWS},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
}


class Decoder(Backbone):
    """A decoder that is given embeddings."""

    def tokens_per_frame(self, height: int, width: int) -> int:
        raise NotImplementedError

    def video(self, frames: Sequence[Frame], state: VideoState, *, fps: float) -> Chunk:
        raise NotImplementedError


class ThreeAxes(Decoder):
    """One with M-RoPE."""

    axes = 3


@cache
def decoder(model_type: str, dtype: str = "float32") -> Decoder:
    """A random decoder, shared by all tests of a process: leave it as it is."""
    return fresh_decoder(model_type, dtype)


def fresh_decoder(model_type: str, dtype: str = "float32", **more: Any) -> Decoder:
    """One of its own, to be changed as a test likes."""
    given = {**SETTINGS[model_type], **more}
    model_type = model_type.split()[0]
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    if "text_config" in given:
        config = AutoConfig.for_model(model_type, **{**given, "text_config": _COMMON | given["text_config"]})
        kind: Any = AutoModelForImageTextToText
    else:
        config = AutoConfig.for_model(model_type, **{**_COMMON, **given})
        kind = AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_config(config)
        sharpen(model.get_decoder())
    model = model.to(getattr(torch, dtype)).eval().requires_grad_(False)
    axes = "mrope_section" in (getattr(model.config.get_text_config(), "rope_parameters", None) or {})
    return (ThreeAxes if axes else Decoder)(model, None, BackboneConfig(family=model_type))


@torch.no_grad()
def sharpen(decoder: Any) -> None:
    """Make attention depend on content and position: with default weights it is nearly uniform everywhere."""
    for name, parameter in decoder.named_parameters():
        if decoder.config.model_type.startswith("gemma4"):
            # Its scores are not scaled down, and sharp as they are.
            return
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            # Queries and keys are normalised after projection, which undoes any scale before.
            parameter.mul_(2.0)
        elif any(part in name for part in ("q_proj.weight", "k_proj.weight", "qkv_proj.weight")):
            parameter.mul_(12.0)
