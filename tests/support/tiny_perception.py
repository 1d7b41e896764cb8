"""PerceptionLM: what its tiny random model needs (see `tiny_models.Tiny`)."""

from __future__ import annotations

from typing import Any

from hermes.dialogue import chatml

PERCEPTION_LM: dict[str, Any] = {
    "model_type": "perception_lm",
    "text": {"model_type": "llama"},
    # Published ones are timm's, a package of its own.
    "vision": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "vision_use_head": False,
        "model_args": {"embed_dim": 32},
    },
    "model": {"vision_use_cls_token": False, "projector_pooling_ratio": 2},
    "tokens": {"image_token": "<|image|>", "video_token": "<|video|>"},
    "token_ids": {"image_token_id": "image_token", "video_token_id": "video_token"},
    "image": "PerceptionLMImageProcessor",
    "video": {
        "video_processor_type": "PerceptionLMVideoProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "processor": {"patch_size": 8, "pooling_ratio": 2},
    "template": chatml("<|video|>"),
}
