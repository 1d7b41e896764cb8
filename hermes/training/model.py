"""The embedded model's architecture, its starting weights, and the directory it is saved as."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hermes.backbone.checkpoint import save_weights
from hermes.config import Settings, setting
from hermes.errors import SettingError
from hermes.files import write_files_whole, write_text_whole
from hermes.training.words import visual_words

__all__ = ["ModelConfig", "build_model", "save_model"]

_PIXELS = {
    "size": {"height": 32, "width": 32},
    "resample": 3,
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@dataclass
class ModelConfig(Settings):
    """Sizes of the embedded model (settings ``model.*``).

    Raises:
        SettingError: sizes that do not go together.
    """

    width: int = setting(128, help="of the decoder", ge=96)
    layers: int = setting(10, help="of the decoder", ge=1)
    heads: int = setting(4, help="query heads", ge=1)
    kv_heads: int = setting(2, help="key and value heads", ge=1)
    feed_forward: int = setting(384, help="of the decoder", ge=32)
    rope_theta: float = setting(1e5, help="base of the rotary frequencies", gt=0)
    vision_width: int = setting(96, help="of the vision tower", ge=16)
    vision_layers: int = setting(3, help="of the vision tower", ge=1)

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise SettingError("heads", self.heads, f"a number whose double divides width, {self.width}")
        if self.heads % self.kv_heads:
            raise SettingError("kv_heads", self.kv_heads, f"a divisor of heads, {self.heads}")


def build_model(config: ModelConfig, tokenizer: Any) -> Any:
    """A LLaVA-OneVision with the starting weights that let it learn to look things up soon.

    Words for what can be seen start orthonormal; queries start like their keys, so that attention begins by
    matching content, and outputs like the values' inverse, so that it copies what it finds.
    """
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    ids = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    settings = LlavaOnevisionConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": config.width,
            "intermediate_size": config.feed_forward,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "tie_word_embeddings": True,
            **ids,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": config.vision_width,
            "intermediate_size": 3 * config.vision_width,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "vision_use_head": False,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[32, 32]],
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaOnevisionForConditionalGeneration(settings)
    model.generation_config.update(**ids)
    with torch.no_grad():
        _start(model, tokenizer)
    return model


def _start(model: Any, tokenizer: Any) -> None:
    embedding = model.get_input_embeddings().weight
    width = embedding.shape[1]
    embedding.copy_(torch.randn_like(embedding) / width**0.5)
    words = visual_words()
    rows = torch.linalg.qr(torch.randn(width, width)).Q[: len(words)]
    ids = [tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in words]
    embedding[torch.tensor(ids)] = rows
    model.model.image_newline.copy_(torch.randn(width) / width**0.5)
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        dim = attention.head_dim
        groups = attention.q_proj.out_features // attention.k_proj.out_features
        key = torch.randn_like(attention.k_proj.weight) / width**0.5
        value = torch.randn_like(attention.v_proj.weight) / width**0.5
        attention.k_proj.weight.copy_(1.5 * key)
        attention.v_proj.weight.copy_(value)
        spread = key.view(-1, 1, dim, width).expand(-1, groups, -1, -1).reshape(-1, width)
        attention.q_proj.weight.copy_(1.5 * spread)
        copied = value.view(-1, 1, dim, width).expand(-1, groups, -1, -1).reshape(-1, width)
        attention.o_proj.weight.copy_(0.2 * copied.T)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.bias.zero_()
        for name in ("gate_proj", "up_proj", "down_proj"):
            weight = getattr(layer.mlp, name).weight
            weight.copy_(torch.randn_like(weight) / weight.shape[1] ** 0.5)
        layer.mlp.down_proj.weight.mul_(0.3)


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write the directory that transformers and Hermes load: weights in bfloat16, processor, template."""
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
        "image_processor": {
            **_PIXELS,
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "image_grid_pinpoints": [[32, 32]],
        },
        "video_processor": {**_PIXELS, "video_processor_type": "LlavaOnevisionVideoProcessor"},
    }
    text = json.dumps(processor, indent=2)

    def write(path: Path) -> None:
        tokenizer.save_pretrained(path)
        before = model.dtype
        try:
            save_weights(model.to(torch.bfloat16), path)
        finally:
            model.to(before)
        write_text_whole(path / "processor_config.json", text + "\n")

    write_files_whole(folder, write, "config.json")
