"""A model that is loaded already, as a backbone takes it: nothing is cast, moved or replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from hermes.backbone.checkpoint import IMAGE_LIMITS, Checkpoint, read_processor
from hermes.backbone.config import BackboneConfig
from hermes.errors import InputError, SettingError

__all__ = ["check_model", "checkpoint_of", "config_of"]

_MODEL = (
    "a loaded model of transformers that generates, such as AutoModelForImageTextToText.from_pretrained(...)"
)
_PROCESSOR = "the model's processor, or its checkpoint's folder or hub id; of a text model, its tokenizer"
# What loading decides.
_LOADED = ("checkpoint", "revision", "dtype", "device", "device_map", "seed")


def check_model(model: object) -> None:
    """Refuse what is no loaded model that generates.

    Raises:
        SettingError: it is a name, a class, a decoder without a head, or something else.
    """
    if isinstance(model, str | Path):
        raise SettingError("model", str(model), _MODEL, "A name or folder is given as backbone=...")
    if isinstance(model, type):
        raise SettingError("model", model.__name__, _MODEL, "This is a class.")
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        inner = (
            " The model inside (.module) is one." if hasattr(getattr(model, "module", None), "config") else ""
        )
        raise SettingError("model", type(model).__name__, _MODEL, inner.strip())
    if not all(callable(getattr(model, name, None)) for name in ("generate", "get_decoder")):
        hint = "This one has no generate(): load the model with its language head."
        raise SettingError("model", type(model).__name__, _MODEL, hint)


def config_of(model: Any, config: BackboneConfig) -> BackboneConfig:
    """The settings of a backbone over a loaded model, which has a name if it was loaded by one.

    Raises:
        SettingError: a setting that loading has decided already.
    """
    plain = BackboneConfig()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in _LOADED and value != getattr(plain, field.name):
            hint = f"The {type(model).__name__} is loaded already, and stays as it is."
            raise SettingError(f"backbone.{field.name}", value, "not given beside model=...", hint)
    name = getattr(model, "name_or_path", "")
    return replace(config, checkpoint=name if isinstance(name, str) else "")


def checkpoint_of(model: Any, processor: object, *, sees: bool) -> Checkpoint:
    """What a checkpoint holds, of a loaded model and its processor.

    Args:
        processor: a processor, a tokenizer, or the folder or hub id of a checkpoint that has one.
        sees: whether pixels must be prepared.

    Raises:
        SettingError: it is no processor, a tokenizer for a model that sees, or of another model.
        InputError: a folder or hub id without one.
    """
    parts = _parts(processor)
    if sees and parts.preprocessor is None:
        hint = (
            "It does not say how frames become pixels. AutoProcessor.from_pretrained(...) does; it needs "
            "torchvision, which the checkpoint's folder or hub id in its place does not."
        )
        raise SettingError("processor", type(processor).__name__, _PROCESSOR, hint)
    known, rows = len(parts.tokenizer), model.get_input_embeddings().weight.shape[0]
    if known > rows:
        hint = f"Its tokenizer has {known} tokens, and the model embeddings of {rows}: it is another model's."
        raise SettingError("processor", type(processor).__name__, _PROCESSOR, hint)
    return parts._replace(model=model, preprocessor=parts.preprocessor or {})


def _parts(processor: Any) -> Checkpoint:
    if isinstance(processor, str | Path):
        return read_processor(BackboneConfig(checkpoint=str(processor)))
    if isinstance(processor, PreTrainedTokenizerBase):
        return Checkpoint(None, processor, None, None, {})
    tokenizer = getattr(processor, "tokenizer", None)
    if isinstance(processor, type) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        given = processor if processor is None else getattr(processor, "__name__", type(processor).__name__)
        raise SettingError("processor", given, _PROCESSOR)
    pixels = _settings(getattr(processor, "video_processor", None))
    if pixels is None and (image := _settings(getattr(processor, "image_processor", None))) is not None:
        pixels = {key: value for key, value in image.items() if key not in IMAGE_LIMITS}
    template = getattr(processor, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    plain = (str, int, float, bool)
    own = {key: value for key, value in vars(processor).items() if isinstance(value, plain)}
    own.pop("chat_template", None)
    return Checkpoint(None, tokenizer, template, pixels, own)


def _settings(preparing: Any) -> dict[str, Any] | None:
    """The settings of what prepares pixels, as its file holds them."""
    if preparing is None:
        return None
    if not hasattr(preparing, "to_json_string"):
        return dict(vars(preparing))
    try:
        settings: dict[str, Any] = json.loads(preparing.to_json_string())
    except (TypeError, ValueError) as error:
        raise InputError(f"the settings of {type(preparing).__name__} cannot be read: {error}") from error
    return settings
