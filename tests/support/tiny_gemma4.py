"""Gemma 4: what its tiny random models need (see `tiny_models.Tiny`)."""

from __future__ import annotations

from typing import Any

from hermes.dialogue import chatml

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
