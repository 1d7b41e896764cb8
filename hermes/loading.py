"""From a hub id, a local folder or a configuration's name to a ready backbone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hermes.backbone import Backbone, BackboneConfig
from hermes.config import build, compose
from hermes.errors import HermesError, InputError, SettingError, UnsupportedModelError
from hermes.registry import registry

__all__ = [
    "Checkpoint",
    "backbone_fallback",
    "load_backbone",
    "load_checkpoint",
    "resolve_device",
    "save_checkpoint",
]

_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")

# An image's pixel limits say nothing about a frame's: a family's own defaults for video replace them.
_IMAGE_LIMITS = ("size", "min_pixels", "max_pixels")


class Checkpoint(NamedTuple):
    """What a checkpoint holds, as :class:`Backbone` takes it (this project)."""

    model: Any
    tokenizer: Any
    chat_template: str | None
    preprocessor: dict[str, Any]


@dataclass
class _Run:
    backbone: BackboneConfig = field(default_factory=BackboneConfig)


def load_backbone(config: BackboneConfig | Mapping[str, Any] | str) -> Backbone:
    """Load a model, its tokenizer and its preprocessing, ready for a session.

    Source: this project.

    Args:
        config: settings, or what ``backbone=`` takes on the command line: the name of a configuration
            (``llava_onevision_7b``), a hub id, or a folder.

    Returns:
        The family's backbone, in evaluation mode, without gradients.

    Raises:
        SettingError: a bad setting, such as a device that is not there.
        UnsupportedModelError: a family Hermes does not know, or a decoder it cannot stream through.
        InputError: no such checkpoint, no network, or files missing or broken.
    """
    if isinstance(config, str):
        config = compose({"backbone": config}, [], _Run, fallbacks={"backbone": backbone_fallback}).backbone
    elif not isinstance(config, BackboneConfig):
        config = build(BackboneConfig, config, "backbone")
    backbone = _family(config).load(config)
    backbone.check()
    return backbone


def backbone_fallback(name: str) -> dict[str, object] | None:
    """What ``backbone=name`` means where no configuration has that name: a folder, a hub id, or a family.

    Source: this project.

    >>> backbone_fallback("Qwen/Qwen2.5-VL-7B-Instruct")
    {'checkpoint': 'Qwen/Qwen2.5-VL-7B-Instruct'}
    """
    if "/" in name or Path(name).expanduser().exists():
        return {"checkpoint": name}
    return {"family": name} if name in registry("backbone").names() else None


def _family(config: BackboneConfig) -> type[Backbone]:
    """The family that is named, or else the one that serves the checkpoint's model type."""
    if not config.family:
        return _serving(config)
    named: Any = registry("backbone").get(config.family, "backbone.family")
    if not (isinstance(named, type) and issubclass(named, Backbone)):
        raise SettingError("backbone.family", config.family, "a subclass of hermes.backbone.Backbone")
    # One that serves no model type by itself, such as a user's own, takes any checkpoint.
    if (
        named.model_types
        and (model_type := _model_settings(config).get("model_type")) not in named.model_types
    ):
        hint = f"It serves {', '.join(named.model_types)}; {config.checkpoint!r} is {model_type!r}."
        raise SettingError("backbone.family", config.family, hint=hint)
    return named


def _serving(config: BackboneConfig) -> type[Backbone]:
    settings, families = _model_settings(config), _families()
    model_type = str(settings.get("model_type", ""))
    if model_type in families:
        return families[model_type]
    supported = f"Supported: {', '.join(families) or '(none is installed)'}."
    if "vision_config" not in settings:
        raise UnsupportedModelError(
            f"{config.checkpoint!r} is a text-only checkpoint (model type {model_type!r}): it cannot see. "
            f"{supported}"
        )
    raise UnsupportedModelError(
        f"{config.checkpoint!r} is of model type {model_type!r}, which no family serves. {supported} "
        "To add one, subclass hermes.backbone.Backbone and name it: backbone.family=my_module.MyFamily, or "
        "the entry point group 'hermes.backbones' of your package."
    )


def _model_settings(config: BackboneConfig) -> dict[str, Any]:
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


def load_checkpoint(config: BackboneConfig) -> Checkpoint:
    """Load a checkpoint's model and tokenizer and read its chat template and preprocessor settings.

    Source: this project. The processor's chat template and video settings are looked for where Hugging
    Face's processors keep them, in the order in which those do.

    Raises:
        SettingError: ``device``, ``dtype`` or ``device_map`` cannot be had here.
        InputError: a file is missing or broken, or weights are missing.
    """
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    device = None if config.device_map is not None else resolve_device(config.device)
    dtype: Any = config.dtype
    if dtype == "auto" and device is not None and device.type == "cpu":
        dtype = "float32"
    placed = {} if device is not None else {"device_map": config.device_map}
    # Not quiet: this may fetch many gigabytes.
    folder = _folder(config, _FILES)
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, output_loading_info=True, **placed
            )
    except Exception as error:
        if config.device_map is not None and "device_map" in str(error):
            raise SettingError("backbone.device_map", config.device_map, hint=_first_line(error)) from error
        raise InputError(f"{config.checkpoint!r} cannot be loaded: {_first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{config.checkpoint!r} lacks {len(missing)} weights, such as {missing[0]}")
    if device is not None:
        model = model.to(device)
    model.eval().requires_grad_(False)
    return Checkpoint(model, tokenizer, _chat_template(folder), _preprocessor(folder))


def save_checkpoint(backbone: Backbone, folder: str | Path) -> None:
    """Write a backbone as a checkpoint folder that Hermes and transformers can load (this project)."""
    path = Path(folder)
    with _quiet():
        backbone.model.save_pretrained(path)
        backbone.tokenizer.save_pretrained(path)
    settings = json.dumps({**backbone.pixel_defaults, **backbone.preprocessor}, indent=2)
    (path / "video_preprocessor_config.json").write_text(settings + "\n", encoding="utf-8")
    if backbone.chat_template:
        (path / "chat_template.jinja").write_text(backbone.chat_template, encoding="utf-8")


def resolve_device(name: str) -> torch.device:
    """The device that setting ``backbone.device`` means (this project).

    Raises:
        SettingError: there is no such device here.
    """
    gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if gpu else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError("backbone.device", name, "auto, cpu, cuda, cuda:1, ...") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            "backbone.device", name, f"auto, cpu{', cuda' if gpu else ''}", "No such GPU here."
        )
    return device


def _chat_template(folder: Path) -> str | None:
    if legacy := _read_json(folder / "chat_template.json"):
        return str(legacy["chat_template"])
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _preprocessor(folder: Path) -> dict[str, Any]:
    nested = _read_json(folder / "processor_config.json") or {}
    if "video_processor" in nested:
        return dict(nested["video_processor"])
    for name in ("video_preprocessor_config.json", "video_processor/preprocessor_config.json"):
        if found := _read_json(folder / name):
            return found
    image = nested.get("image_processor") or _read_json(folder / "preprocessor_config.json") or {}
    return {key: value for key, value in image.items() if key not in _IMAGE_LIMITS}


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, and holds a {type(content).__name__}")
    return content


def _folder(config: BackboneConfig, files: Sequence[str]) -> Path:
    """The checkpoint's folder; of a hub id, the cached one, after fetching ``files`` into it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name = config.checkpoint
    if not name:
        raise SettingError("backbone.checkpoint", "", "a hub id, or a folder with a config.json")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or name.startswith(("/", "./", "../", "~")):
        raise InputError(f"{name!r} is not a folder")
    try:
        return Path(snapshot_download(name, revision=config.revision, allow_patterns=list(files)))
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{name!r} is not a local folder, and the Hugging Face hub cannot be reached to fetch it. Where "
            f"there is a network, download it (hf download {name} --local-dir FOLDER), then name the folder: "
            "backbone=FOLDER"
        ) from error
    except Exception as error:
        raise InputError(
            f"{name!r} cannot be fetched from the Hugging Face hub: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' warnings and progress bars, and put both back as they were."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
