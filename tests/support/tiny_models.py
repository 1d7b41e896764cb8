"""Checkpoints of tiny random models, one a model type of transformers, written to a folder like any other."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import transformers

from hermes.backbone import Backbone, BackboneConfig, load_backbone
from hermes.backbones.tiny import byte_tokenizer
from hermes.dialogue import chatml
from tests.support.tiny_gemma4 import GEMMA4, GEMMA4_SMALL
from tests.support.tiny_glm import GLM4V, GLM46V
from tests.support.tiny_minicpm import MINICPM_V
from tests.support.tiny_molmo2 import MOLMO2, MOLMO2_O
from tests.support.tiny_omni import OMNI_THINKER
from tests.support.tiny_perception import PERCEPTION_LM

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 32768,
}


@dataclass(frozen=True)
class Tiny:
    """What a model type needs besides the common sizes.

    Attributes:
        text, vision, model: settings of the decoder, the encoder, the whole.
        tokens: control tokens by the names that the processor and the settings know them by.
        video: settings of the video preprocessor.
        processor: settings of the processor.
        image: what prepares pictures, which no stream has.
        template: a chat template.
    """

    model_type: str
    text: dict[str, Any]
    vision: dict[str, Any]
    video: dict[str, Any]
    tokens: dict[str, str]
    model: dict[str, Any] = field(default_factory=dict)
    token_ids: dict[str, str] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    image: str = "Qwen2VLImageProcessor"
    template: str = chatml("<video>")


TINY: dict[str, Tiny] = {
    "smolvlm": Tiny(
        model_type="smolvlm",
        text={"model_type": "llama"},
        vision={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "video_token": "<video>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
        token_ids={"image_token_id": "image_token"},
        model={"scale_factor": 2},
        image="SmolVLMImageProcessor",
        video={
            "video_processor_type": "SmolVLMVideoProcessor",
            "size": {"longest_edge": 48},
            "max_image_size": {"longest_edge": 32},
            "do_pad": True,
            "resample": 1,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
        processor={"image_seq_len": 4},
    ),
    "glm4v": Tiny(**GLM4V),
    "glm46v": Tiny(**GLM46V),
    "minicpm_v": Tiny(**MINICPM_V),
    "perception_lm": Tiny(**PERCEPTION_LM),
    "video_llama_3": Tiny(
        model_type="video_llama_3",
        text={"model_type": "qwen2"},
        vision={
            "model_type": "video_llama_3_vision",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 8,
        },
        tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        token_ids={"image_token_id": "image_token", "video_token_id": "video_token"},
        image="VideoLlama3ImageProcessor",
        video={
            "video_processor_type": "VideoLlama3VideoProcessor",
            "size": {"shortest_edge": 16 * 16, "longest_edge": 9 * 16 * 16},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "patch_size": 8,
            "merge_size": 2,
            "temporal_patch_size": 1,
        },
        template=chatml("<|video_pad|>\n"),
    ),
    "llava_next_video": Tiny(
        model_type="llava_next_video",
        text={"model_type": "llama"},
        vision={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        tokens={"image_token": "<image>", "video_token": "<video>"},
        token_ids={"image_token_index": "image_token", "video_token_index": "video_token"},
        model={"vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
        image="LlavaNextImageProcessor",
        video={
            "video_processor_type": "LlavaNextVideoVideoProcessor",
            "size": {"shortest_edge": 36},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
            "image_mean": [0.481, 0.458, 0.408],
            "image_std": [0.269, 0.261, 0.276],
        },
        processor={"patch_size": 8, "vision_feature_select_strategy": "default"},
        template=chatml("<video>\n"),
    ),
    "internvl": Tiny(
        model_type="internvl",
        text={"model_type": "qwen2"},
        vision={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        model={"image_seq_length": 4, "downsample_ratio": 0.5, "vision_feature_layer": -1},
        tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        token_ids={"image_token_id": "context_image_token"},
        image="GotOcr2ImageProcessor",
        video={
            "video_processor_type": "InternVLVideoProcessor",
            "size": {"height": 32, "width": 32},
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        processor={"image_seq_length": 4},
        template=chatml("<video>\n"),
    ),
    "qwen3_vl_moe": Tiny(
        model_type="qwen3_vl_moe",
        text={
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
        token_ids={
            "image_token_id": "image_token",
            "video_token_id": "video_token",
            "vision_start_token_id": "vision_start_token",
            "vision_end_token_id": "vision_end_token",
        },
        video={
            "video_processor_type": "Qwen3VLVideoProcessor",
            "size": {"shortest_edge": 2 * 32 * 32, "longest_edge": 2 * 9 * 32 * 32},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "patch_size": 16,
            "merge_size": 2,
            "temporal_patch_size": 2,
        },
        template=chatml("<|vision_start|><|video_pad|><|vision_end|>"),
    ),
}

# Those with a file of their own, and tests of their own.
APART: dict[str, Tiny] = {
    "gemma4": Tiny(**GEMMA4),
    "gemma4_small": Tiny(**GEMMA4_SMALL),
    "molmo2": Tiny(**MOLMO2),
    "molmo2_o": Tiny(**MOLMO2_O),
    "omni_thinker": Tiny(**OMNI_THINKER),
}


def write(name: str, folder: Path, seed: int = 0) -> None:
    """Write a checkpoint of this model type, weights from the seed, attention sharp."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    tiny = TINY.get(name) or APART[name]
    tokenizer = byte_tokenizer(tiny.template)
    new = [token for token in tiny.tokens.values() if token not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
    ids = {key: tokenizer.convert_tokens_to_ids(tiny.tokens[token]) for key, token in tiny.token_ids.items()}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ends["bos_token_id"] = None
    settings = AutoConfig.for_model(
        tiny.model_type,
        text_config={**TEXT, "vocab_size": len(tokenizer), **ends, **tiny.text},
        vision_config=tiny.vision,
        **tiny.model,
        **ids,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(settings)
        sharpen(model)
    model.generation_config.update(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    known = json.loads(path.read_text())
    known |= {"extra_special_tokens": tiny.tokens}
    path.write_text(json.dumps(known))
    (folder / "chat_template.jinja").write_text(tiny.template)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(tiny.video))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": tiny.image}))
    (folder / "processor_config.json").write_text(json.dumps(tiny.processor))


def sharpen(model: Any) -> None:
    """Let attention depend on content and position: with default weights it is nearly even."""
    if model.config.model_type == "gemma4":
        # Its scores are not scaled down, and sharp as they are.
        return
    for name, weight in model.get_decoder().named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            weight.mul_(1.5)
        elif name.endswith(("q_proj.weight", "k_proj.weight")):
            weight.mul_(12.0)
        elif name.endswith(("q_proj.bias", "k_proj.bias")):
            weight.normal_(std=0.5)


# transformers 5.17 lacks them, or needs torchvision or timm for them.
LATER = ("gemma4", "perception_lm", "molmo2", "omni")


@cache
def tiny_checkpoint(name: str) -> Path:
    """A folder with this checkpoint, written once a process."""
    if transformers.__version__.startswith("5.17.") and name.startswith(LATER):
        pytest.skip(f"transformers 5.17 does not serve {name}")
    folder = Path(mkdtemp(prefix=f"tiny_{name}_"))
    write(name, folder)
    return folder


@cache
def tiny_model(name: str, layout: str = "native") -> Backbone:
    """Its backbone; leave it as it is."""
    return load_backbone(BackboneConfig(checkpoint=str(tiny_checkpoint(name)), layout=layout))  # type: ignore[arg-type]
