"""MiniCPM-V 4.6: what its tiny random model needs (see `tiny_models.Tiny`)."""

from __future__ import annotations

from typing import Any

from hermes.backbone import Backbone
from hermes.dialogue import chatml
from tests.support.tiny_qwen3_5 import DenseHybrid

MINICPM_V: dict[str, Any] = {
    "model_type": "minicpmv4_6",
    "text": {
        "model_type": "qwen3_5_text",
        "head_dim": 64,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
    },
    "vision": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
    },
    "model": {"insert_layer_id": 0},
    "tokens": {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    },
    "token_ids": {"image_token_id": "image_token", "video_token_id": "video_token"},
    "image": "MiniCPMV4_6ImageProcessor",
    "video": {
        "video_processor_type": "MiniCPMV4_6VideoProcessor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "patch_size": 8,
        "scale_resolution": 96,
        "max_slice_nums": 1,
        "use_image_id": False,
    },
    "template": chatml("<|video_pad|>"),
}


class DenseMiniCPM(DenseHybrid):
    """Qwen3.5's decoder on counted positions."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.axes = [0] * len(self.axes)
