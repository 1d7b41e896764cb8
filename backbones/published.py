"""Published shapes with random weights: speed and memory can be measured without a download."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from hermes.backbone import Backbone, BackboneConfig
from hermes.errors import SettingError
from hermes.machine.device import resolve_device

from .tiny import TinyLlavaOnevision, TinyQwen2_5VL, byte_tokenizer

_QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}


class _Published:
    """Weights drawn on the device, in the dtype that is asked for (bfloat16 by default)."""

    model_type: ClassVar[str]
    text: ClassVar[dict[str, Any]]
    vision: ClassVar[dict[str, Any]]
    pixels: ClassVar[dict[str, Any]] = {}

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        from transformers import AutoConfig, AutoModelForImageTextToText

        if config.checkpoint:
            raise SettingError("backbone.checkpoint", config.checkpoint, "empty: this family is random")
        family: Any = cls
        tokenizer = byte_tokenizer(family.default_template)
        ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in family.token_ids.items()}
        settings = AutoConfig.for_model(
            cls.model_type, text_config=cls.text, vision_config=cls.vision, tie_word_embeddings=False, **ids
        )
        dtype = torch.bfloat16 if config.dtype == "auto" else getattr(torch, config.dtype)
        device = resolve_device(config.device)
        with torch.random.fork_rng(), torch.no_grad(), device:
            torch.manual_seed(config.seed)
            model = AutoModelForImageTextToText.from_config(settings, dtype=dtype)
        # Nothing ends an answer: every token is timed.
        model.generation_config.update(eos_token_id=None, bos_token_id=None, pad_token_id=0)
        model = model.to(device).eval().requires_grad_(False)
        backbone: Backbone = family(
            model, tokenizer, config, preprocessor={**family.pixel_defaults, **cls.pixels}
        )
        return backbone


class RandomLlavaOnevision7B(_Published, TinyLlavaOnevision):
    """LLaVA-OneVision-7B's shape: 196 tokens a frame, 28 layers (shape: arXiv 2408.03326)."""

    text: ClassVar[dict[str, Any]] = {
        **_QWEN2_7B,
        "model_type": "qwen2",
        "vocab_size": 152000,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    vision: ClassVar[dict[str, Any]] = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }
    pixels: ClassVar[dict[str, Any]] = {}


class RandomQwen2_5VL7B(_Published, TinyQwen2_5VL):  # noqa: N801
    """Qwen2.5-VL-7B's shape: 28 layers, M-RoPE (shape: arXiv 2502.13923)."""

    text: ClassVar[dict[str, Any]] = {
        **_QWEN2_7B,
        "vocab_size": 152064,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision: ClassVar[dict[str, Any]] = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    pixels: ClassVar[dict[str, Any]] = {}
