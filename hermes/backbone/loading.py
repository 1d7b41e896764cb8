"""From a hub id, a local folder or a configuration's name to a ready backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import transformers

from hermes.backbone.backbone import Backbone
from hermes.backbone.checkpoint import _folder, _quiet, _read_json, gguf_file, save_weights
from hermes.backbone.config import BackboneConfig
from hermes.backbone.gguf_llama import architecture_of
from hermes.backbone.wrapping import check_model
from hermes.config import Settings, build, compose
from hermes.errors import HermesError, InputError, SettingError, UnsupportedModelError
from hermes.files import write_files_whole, write_text_whole
from hermes.registry import registry

__all__ = ["backbone_fallback", "load_backbone", "native_fps", "save_checkpoint"]


@dataclass
class _Run(Settings):
    backbone: BackboneConfig = field(default_factory=BackboneConfig)


def load_backbone(
    config: BackboneConfig | Mapping[str, Any] | str | None = None,
    *,
    model: Any = None,
    processor: Any = None,
) -> Backbone:
    """Load a model, its tokenizer and its preprocessing, ready for a session; or take one that is loaded.

    Args:
        config: settings, or what ``backbone=`` takes on the command line: the name of a configuration
            (``llava_onevision_7b``), a hub id, or a folder. Beside ``model`` it may say how that is used.
        model: a model of transformers that is loaded already, and stays as it is: see :meth:`Backbone.wrap`.
        processor: that model's.

    Returns:
        The family's backbone; a model loaded here is in evaluation mode, without gradients.

    Raises:
        SettingError: a bad setting, such as a device that is not there.
        UnsupportedModelError: a family Hermes does not know, or a decoder it cannot stream through.
        InputError: no such checkpoint, no network, or files missing or broken.
    """
    if isinstance(config, str):
        config = compose({"backbone": config}, [], _Run, fallbacks={"backbone": backbone_fallback}).backbone
    elif not isinstance(config, BackboneConfig):
        config = build(BackboneConfig, config or {}, "backbone")
    if model is None and processor is None:
        backbone = _family(config).load(config)
    else:
        check_model(model)
        named = replace(config, checkpoint=type(model).__name__)
        family = _family(named, {"model_type": model.config.model_type})
        backbone = family.wrap(model, processor, config)
    backbone.check()
    return backbone


def native_fps(config: BackboneConfig) -> float:
    """The rate at which a backbone watches where ``video.fps`` says nothing, before its weights are loaded.

    Raises:
        SettingError: no such family.
        UnsupportedModelError: a family Hermes does not know.
        InputError: no such checkpoint.

    >>> native_fps(BackboneConfig(family="tiny_llava_onevision"))
    0.5
    """
    return config.fps or _family(config).stock_fps(config)


def backbone_fallback(name: str) -> dict[str, object] | None:
    """What ``backbone=name`` means where no configuration has that name: a folder, a hub id, or a family.

    >>> backbone_fallback("Qwen/Qwen2.5-VL-7B-Instruct")
    {'checkpoint': 'Qwen/Qwen2.5-VL-7B-Instruct'}
    """
    if "/" in name or name.endswith(".gguf") or Path(name).expanduser().exists():
        return {"checkpoint": name}
    return {"family": name} if name in registry("backbone").names() else None


def _family(config: BackboneConfig, settings: Mapping[str, Any] | None = None) -> type[Backbone]:
    """The family that is named, or else the one that serves the model type.

    Args:
        settings: of the model; the checkpoint's, if not given.
    """
    if not config.family:
        return _serving(config, _model_settings(config) if settings is None else settings)
    named: Any = registry("backbone").get(config.family, "backbone.family")
    if not (isinstance(named, type) and issubclass(named, Backbone)):
        raise SettingError("backbone.family", config.family, "a subclass of hermes.backbone.Backbone")
    # One that serves no model type by itself, such as a user's own, takes any checkpoint.
    if (
        named.model_types
        and (model_type := (settings or _model_settings(config)).get("model_type")) not in named.model_types
    ):
        hint = f"It serves {', '.join(named.model_types)}; {config.checkpoint!r} is {model_type!r}."
        raise SettingError("backbone.family", config.family, hint=hint)
    return named


def _serving(config: BackboneConfig, settings: Mapping[str, Any]) -> type[Backbone]:
    families = _families()
    model_type = str(settings.get("model_type", ""))
    if model_type in families:
        return families[model_type]
    # Imported here: commands that only list and show do without transformers.
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    # One that asks the model itself.
    for known, name in (
        (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "auto"),
        (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "text"),
    ):
        if model_type in known:
            general: type[Backbone] = registry("backbone").get(name)
            return general
    raise UnsupportedModelError(
        f"{config.checkpoint!r} is of model type {model_type!r}, which the installed transformers "
        f"({transformers.__version__}) does not know as a model that watches or reads. Supported: "
        f"{', '.join(families) or '(none is installed)'}, and causal language models. To add one, subclass "
        "hermes.backbone.Backbone and name it: backbone.family=my_module.MyFamily, or the entry point group "
        "'hermes.backbones' of your package."
    )


def _model_settings(config: BackboneConfig) -> dict[str, Any]:
    if (file := gguf_file(config)) is not None:
        return {"model_type": architecture_of(file)}
    with _quiet():
        folder = _folder(config, ["config.json"])
    settings = _read_json(folder / "config.json")
    if settings is None:
        raise InputError(f"{config.checkpoint!r} has no config.json, so it is no checkpoint")
    return settings


def _families() -> dict[str, type[Backbone]]:
    """Registered families by the model types they serve; those that cannot be imported are left out."""
    found: dict[str, type[Backbone]] = {}
    for name in registry("backbone").names():
        try:
            family = registry("backbone").get(name)
        except HermesError:
            continue
        for model_type in getattr(family, "model_types", ()):
            found.setdefault(model_type, family)
    return found


def save_checkpoint(backbone: Backbone, folder: str | Path) -> None:
    """Write a backbone as a checkpoint folder that Hermes and transformers can load.

    Raises:
        WriteError: the folder cannot be written to.
    """
    settings = json.dumps({**backbone.pixel_defaults, **backbone.preprocessor}, indent=2)

    def write(path: Path) -> None:
        with _quiet():
            save_weights(backbone.model, path)
            backbone.tokenizer.save_pretrained(path)
        write_text_whole(path / "video_preprocessor_config.json", settings + "\n")
        if backbone.chat_template:
            write_text_whole(path / "chat_template.jinja", backbone.chat_template)

    write_files_whole(folder, write, "config.json")
