"""Tiny random models of each family, built in memory: for tests, demos and trials without a download."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from hermes.backbone import Backbone, BackboneConfig, cast_weights
from hermes.dialogue import chatml
from hermes.errors import SettingError
from hermes.machine.device import resolve_device

from .llava_onevision import LlavaOnevision
from .qwen2_5_vl import Qwen2_5VL
from .qwen3_vl import Qwen3VL
from .text import Text

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
}
_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<video>",
)
# Text in which merges are learned: prompts would be several times as long in single bytes.
_CORPUS = (
    "You are a helpful assistant. system user assistant seconds video frame scene question answer option. "
    "Describe the current scene in detail: the objects, the fine-grained actions and the spatial relations. "
    "Summarise the narrative so far: the main characters, the key events, changes over time, the theme. "
    "Find what was recent and related to the last round. What is the person doing now? What happened before "
    "that? Which of these is correct? Where is it? When does it appear? Who is there? How many? Why?"
)


class _Tiny(Backbone):
    """What the tiny families share: weights from a seed, a byte-level tokenizer, sharp attention."""

    own_weights = "random"
    model_type: ClassVar[str]
    text: ClassVar[dict[str, Any]]
    vision: ClassVar[dict[str, Any]]
    pixels: ClassVar[dict[str, Any]]
    token_ids: ClassVar[dict[str, str]]

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        if config.checkpoint:
            raise SettingError("backbone.checkpoint", config.checkpoint, "empty: this family is random")
        tokenizer = byte_tokenizer(cls.default_template)
        ids = {
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(config.seed)
            model = cls.made({**_TEXT, **cls.text, **ids, "vocab_size": len(tokenizer)}, tokenizer)
            _sharpen(model)
        model.generation_config.update(**ids)
        dtype = torch.float32 if config.dtype == "auto" else getattr(torch, config.dtype)
        cast_weights(model, dtype)
        model = model.to(resolve_device(config.device)).eval().requires_grad_(False)
        return cls(model, tokenizer, config, preprocessor={**cls.pixel_defaults, **cls.pixels})

    @classmethod
    def made(cls, text: dict[str, Any], tokenizer: Any) -> Any:
        """The model, with weights as transformers draws them; ``text``: settings of its decoder."""
        from transformers import AutoConfig, AutoModelForImageTextToText

        ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in cls.token_ids.items()}
        settings = AutoConfig.for_model(cls.model_type, text_config=text, vision_config=cls.vision, **ids)
        return AutoModelForImageTextToText.from_config(settings)


class TinyLlavaOnevision(_Tiny, LlavaOnevision):
    """A random LLaVA-OneVision: 42x42 pixels and 9 tokens a frame, 10 layers."""

    model_types: ClassVar[tuple[str, ...]] = ()
    model_type = "llava_onevision"
    text: ClassVar[dict[str, Any]] = {"model_type": "qwen2"}
    vision: ClassVar[dict[str, Any]] = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 42,
        "patch_size": 7,
        "vision_use_head": False,
    }
    pixels: ClassVar[dict[str, Any]] = {"size": {"height": 42, "width": 42}}
    token_ids: ClassVar[dict[str, str]] = {"image_token_index": "<image>", "video_token_index": "<video>"}


class TinyQwen2_5VL(_Tiny, Qwen2_5VL):  # noqa: N801
    """A random Qwen2.5-VL: at most 9 tokens a frame pair, 10 layers."""

    model_types: ClassVar[tuple[str, ...]] = ()
    model_type = "qwen2_5_vl"
    text: ClassVar[dict[str, Any]] = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    }
    vision: ClassVar[dict[str, Any]] = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "tokens_per_second": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    pixels: ClassVar[dict[str, Any]] = {"size": {"shortest_edge": 28 * 28, "longest_edge": 9 * 28 * 28}}
    token_ids: ClassVar[dict[str, str]] = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }


class TinyQwen3VL(_Tiny, Qwen3VL):
    """A random Qwen3-VL: at most 9 tokens a frame pair and its timestamp, 10 layers."""

    model_types: ClassVar[tuple[str, ...]] = ()
    model_type = "qwen3_vl"
    text: ClassVar[dict[str, Any]] = {
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
    }
    vision: ClassVar[dict[str, Any]] = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    # Of a clip of one pair.
    pixels: ClassVar[dict[str, Any]] = {
        "size": {"shortest_edge": 2 * 32 * 32, "longest_edge": 2 * 9 * 32 * 32}
    }
    token_ids: ClassVar[dict[str, str]] = TinyQwen2_5VL.token_ids


class TinyText(_Tiny, Text):
    """A random Qwen3 that reads texts, 10 layers."""

    model_type = "qwen3"
    text: ClassVar[dict[str, Any]] = {"head_dim": 16}
    pixels: ClassVar[dict[str, Any]] = {}
    default_template = chatml(Text.video_marker)

    @classmethod
    def made(cls, text: dict[str, Any], tokenizer: Any) -> Any:
        """The model, with weights as transformers draws them; ``text``: its settings."""
        from transformers import AutoConfig, AutoModelForCausalLM

        return AutoModelForCausalLM.from_config(AutoConfig.for_model(cls.model_type, **text))


def _sharpen(model: Any) -> None:
    """Make attention depend on content and position: with default weights it is nearly uniform everywhere."""
    for layer in model.get_decoder().layers:
        attention = getattr(layer, "self_attn", None)
        if attention is None:
            continue
        if hasattr(attention, "q_norm"):
            # Queries and keys are normalised after projection, which undoes any scale before.
            attention.q_norm.weight.mul_(2.0)
            attention.k_norm.weight.mul_(2.0)
            continue
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(12.0)
            projection.bias.normal_(std=0.5)


def byte_tokenizer(chat_template: str | None) -> Any:
    """A byte-level BPE tokenizer with Qwen's special tokens, trained on the spot."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(_SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL[1:]),
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )
