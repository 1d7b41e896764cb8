"""A checkpoint's model, tokenizer and preprocessor settings, from a hub id or a folder."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoTokenizer, AutoVideoProcessor
from transformers.utils import logging

from hermes.backbone.config import BackboneConfig
from hermes.backbone.gguf_llama import llama_of
from hermes.errors import InputError, SettingError, UnsupportedModelError
from hermes.machine.device import resolve_device

_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")


# An image's pixel limits say nothing about a frame's: a family's own defaults for video replace them.
IMAGE_LIMITS = ("size", "min_pixels", "max_pixels")


class Checkpoint(NamedTuple):
    """What a checkpoint holds, as :class:`Backbone` takes it."""

    model: Any
    tokenizer: Any
    chat_template: str | None
    preprocessor: dict[str, Any] | None
    processor_settings: dict[str, Any]


def load_checkpoint(config: BackboneConfig, kind: str = "AutoModelForImageTextToText") -> Checkpoint:
    """Load a checkpoint's model and tokenizer and read its chat template and preprocessor settings.

    The processor's chat template and video settings are looked for where Hugging
    Face's processors keep them, in the order in which those do.

    Args:
        kind: the class of transformers that chooses the model's.

    Raises:
        SettingError: ``device``, ``dtype`` or ``device_map`` cannot be had here.
        InputError: a file is missing or broken, or weights are missing.
    """
    if (file := gguf_file(config)) is not None:
        return _from_gguf(file, config, kind)
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
            model, report = getattr(transformers, kind).from_pretrained(
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
    return Checkpoint(
        model, tokenizer, _chat_template(folder), _preprocessor(folder), _processor_settings(folder)
    )


def gguf_file(config: BackboneConfig) -> Path | None:
    """The checkpoint, if it is named as a GGUF file.

    >>> gguf_file(BackboneConfig("a/model.gguf")), gguf_file(BackboneConfig("a/model"))
    (PosixPath('a/model.gguf'), None)
    """
    path = Path(config.checkpoint).expanduser()
    return path if path.suffix.lower() == ".gguf" else None


def _from_gguf(file: Path, config: BackboneConfig, kind: str) -> Checkpoint:
    """A decoder, unpacked: in float32 on a CPU, else in bfloat16, unless the settings say."""
    if kind != "AutoModelForCausalLM":
        raise UnsupportedModelError(f"{file}: a GGUF file is read as a decoder of text: backbone.family=text")
    if config.device_map is not None:
        raise SettingError("backbone.device_map", config.device_map, "null: a GGUF file goes to one device")
    device = resolve_device(config.device)
    auto = "float32" if device.type == "cpu" else "bfloat16"
    with _quiet():
        model, tokenizer = llama_of(file, getattr(torch, auto if config.dtype == "auto" else config.dtype))
    return Checkpoint(model.to(device), tokenizer, None, None, {})


def read_processor(config: BackboneConfig) -> Checkpoint:
    """What :func:`load_checkpoint` gives but for the model.

    Raises:
        InputError: no such folder or hub id, or no tokenizer in it.
    """
    folder = _folder(config, [pattern for pattern in _FILES if pattern != "*.safetensors"])
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise InputError(f"{config.checkpoint!r} has no processor: {_first_line(error)}") from error
    return Checkpoint(
        None, tokenizer, _chat_template(folder), _preprocessor(folder), _processor_settings(folder)
    )


def preprocessor_of(config: BackboneConfig) -> dict[str, Any]:
    """The video preprocessor's settings of a checkpoint, without its weights.

    Raises:
        InputError: no such checkpoint, or its settings are broken.
    """
    with _quiet():
        return _preprocessor(_folder(config, ["*.json"]))


def stock_preprocessor(config: BackboneConfig) -> dict[str, Any]:
    """The settings of the checkpoint's own video processor, defaults included; none without torchvision.

    Raises:
        InputError: no such checkpoint.
    """
    if find_spec("torchvision") is None:
        return {}
    folder = _folder(config, ["*.json"])
    try:
        with _quiet():
            found: dict[str, Any] = json.loads(AutoVideoProcessor.from_pretrained(folder).to_json_string())
    except Exception:
        # It has none, or one that the installed transformers does not know: its files say what they say.
        return {}
    return found


def save_weights(model: Any, folder: Path) -> None:
    """Write a model's weights and settings, as transformers does; what the machine refuses is an OSError."""
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(errno.EIO, _first_line(error)) from error


def _chat_template(folder: Path) -> str | None:
    if legacy := _read_json(folder / "chat_template.json"):
        return str(legacy["chat_template"])
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _processor_settings(folder: Path) -> dict[str, Any]:
    settings = _read_json(folder / "processor_config.json") or {}
    return {key: value for key, value in settings.items() if not isinstance(value, dict)}


def _preprocessor(folder: Path) -> dict[str, Any]:
    nested = _read_json(folder / "processor_config.json") or {}
    if "video_processor" in nested:
        return dict(nested["video_processor"])
    for name in ("video_preprocessor_config.json", "video_processor/preprocessor_config.json"):
        if found := _read_json(folder / name):
            return found
    image = nested.get("image_processor") or _read_json(folder / "preprocessor_config.json") or {}
    return {key: value for key, value in image.items() if key not in IMAGE_LIMITS}


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
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
