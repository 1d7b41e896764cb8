"""The thinker of Qwen2.5-Omni: what its tiny random model needs (see `tiny_models.Tiny`)."""

from __future__ import annotations

from typing import Any

from hermes.dialogue import chatml

OMNI_THINKER: dict[str, Any] = {
    "model_type": "qwen2_5_omni_thinker",
    "text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    },
    "vision": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    },
    "model": {
        "audio_config": {
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 1,
            "encoder_ffn_dim": 16,
            "output_dim": 64,
            "num_mel_bins": 8,
        }
    },
    "tokens": {
        "image_token": "<|IMAGE|>",
        "video_token": "<|VIDEO|>",
        "audio_token": "<|AUDIO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    },
    "token_ids": {
        "image_token_id": "image_token",
        "video_token_id": "video_token",
        "audio_token_id": "audio_token",
        "vision_start_token_id": "vision_bos_token",
        "vision_end_token_id": "vision_eos_token",
        "audio_start_token_id": "audio_bos_token",
        "audio_end_token_id": "audio_eos_token",
    },
    "video": {
        "video_processor_type": "Qwen2VLVideoProcessor",
        "size": {"shortest_edge": 28 * 28, "longest_edge": 6 * 28 * 28},
        "image_mean": [0.481, 0.458, 0.408],
        "image_std": [0.269, 0.261, 0.276],
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
    },
    "template": chatml("<|vision_bos|><|VIDEO|><|vision_eos|>"),
}
