"""A stream written to a folder and taken up again: its memory, its clocks, and what its policy holds."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hermes.backbone import Backbone, weights_fingerprint
from hermes.config import Part, build, setting, settings_of, to_dict
from hermes.decoding.parallel import processes_of
from hermes.dialogue import Round
from hermes.errors import InputError, SettingError, UnsupportedModelError
from hermes.files import plain_json
from hermes.machine.device import Stopwatch
from hermes.memory import KVMemory, MemoryConfig, memory_of, read_saved, read_tensors
from hermes.policy import MemoryPolicy
from hermes.registry import registry
from hermes.session.stream import Stream
from hermes.tokens import VideoState
from hermes.version import __version__

__all__ = ["resumed_stream", "save_stream"]

logger = logging.getLogger(__name__)

# Where an archive's files lie: any place will do.
_FREE = (".store.place", ".store.folder")


@dataclass
class _Round:
    question: str
    answer: str
    choices: list[str] = setting([])


@dataclass(kw_only=True)
class _Stream:
    """What the record of a saved stream holds beside that of its memory; counts that came later may lack."""

    video: VideoState
    policy: str
    frames_seen: int = setting(ge=0)
    now: float
    history: list[_Round]
    chunks: int = setting(1, ge=0)
    questions: int = setting(0, ge=0)


def save_stream(stream: Stream, folder: str | Path, chunk_frames: int) -> None:
    """Write a stream in which no frame waits; :func:`resumed_stream` reads it.

    Beside the memory's file, ``policy.safetensors`` holds the policy's own state and the random generator's.

    Args:
        chunk_frames: of the session.

    Raises:
        InputError: the folder cannot be written to; what was saved there before is as it was.
    """
    if processes_of(stream.backbone.model) is not None:
        raise UnsupportedModelError(
            "under tensor parallelism each process holds some of the heads: such a stream is not saved"
        )
    own = {f"policy.{name}": tensor for name, tensor in stream.policy.state().items()}
    own |= {f"video.{name}": tensor for name, tensor in stream.video.tensors.items()}
    record = {
        "video": asdict(stream.video),
        "policy": type(stream.policy).__name__,
        "frames_seen": stream.frames_seen,
        "now": stream.now,
        "chunks": stream.chunks,
        "questions": stream.questions,
        "history": [asdict(round_) for round_ in stream.context.history],
        "hermes": __version__,
        "settings": {
            **_model_settings(stream.backbone, stream.fps, chunk_frames),
            "backbone.weights": weights_fingerprint(stream.backbone),
            "policy": _plain(stream.policy),
        },
    }
    generator = {"generator": stream.context.generator.get_state()}
    stream.memory.save(folder, record, {"policy": {**generator, **own}})


def resumed_stream(
    like: Stream, folder: str | Path, chunk_frames: int, config: MemoryConfig, memory: KVMemory
) -> Stream:
    """A stream where the saved one was, with a policy of its own; the one that is given is left as it is.

    Args:
        like: a stream of the session that is to go on.
        folder: written by :func:`save_stream`.
        chunk_frames, config: of the session.
        memory: of the session, for its kernels.

    Raises:
        SettingError: the stream was saved under another setting: which, its value there and here.
        InputError: no saved stream there, it is damaged, or of another decoder or policy.
    """

    def read(record: Mapping[str, Any]) -> Stream:
        path = Path(folder)
        if "video" not in record:
            raise InputError(f"{path}: not a stream: a memory alone is saved there")
        own = {field.name: record[field.name] for field in fields(_Stream) if field.name in record}
        about = build(_Stream, own, str(path / "memory.json"))
        _compare(like, path, record, about, chunk_frames, config)
        held = memory_of(
            path,
            record,
            like.backbone.rotary,
            like.backbone.device,
            specs=like.backbone.layer_specs,
            window_rotary=like.backbone.window_rotary,
        )
        _check_shapes(like.backbone, path, held)
        held.use(memory.kernels)
        return _restored(like, path, about, held, read_tensors(path, record, "policy"), record["format"] == 1)

    return read_saved(folder, read)


def _restored(
    like: Stream, path: Path, about: _Stream, held: KVMemory, tensors: dict[str, Tensor], unsure: bool
) -> Stream:
    fresh = _fresh(like.policy)
    stream = like.beside(fresh)
    stream.start(held, Stopwatch(like.backbone.device), Stopwatch(like.backbone.device))
    try:
        stream.context.generator.set_state(tensors.pop("generator"))
        seen = {key.removeprefix("video."): x for key, x in tensors.items() if key.startswith("video.")}
        own = {key.removeprefix("policy."): x for key, x in tensors.items() if key.startswith("policy.")}
        fresh.restore(own)
        # Nothing was noted of what an earlier version wrote: at least it is what such a policy would write.
        if unsure and _shapes(fresh.state()) != _shapes(own):
            raise ValueError("tensors that this policy does not write")
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: policy: damaged: what the policy held cannot be read ({told})") from error
    stream.video, stream.now = about.video, about.now
    stream.video.tensors = seen
    stream.frames_seen, stream.chunks, stream.questions = about.frames_seen, about.chunks, about.questions
    stream.context.history.extend(
        Round(one.question, one.answer, tuple(one.choices)) for one in about.history
    )
    return stream


def _fresh(policy: Any) -> MemoryPolicy:
    """Another policy of the same settings, which has nothing in common with the stream of the first."""
    if not dataclasses.is_dataclass(policy):
        return copy.deepcopy(policy)  # type: ignore[no-any-return]
    made: Any = dataclasses.replace(policy)  # type: ignore[type-var]
    return made  # type: ignore[no-any-return]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def _model_settings(backbone: Backbone, fps: float, chunk_frames: int) -> dict[str, Any]:
    """What the model and its frames must be like for a stream to go on, weights apart."""
    recipe = backbone.recipe
    found = {
        "backbone.family": registry("backbone").name_of(type(backbone)),
        "backbone.dtype": str(backbone.dtype).removeprefix("torch."),
        "backbone.layers": backbone.num_layers,
        "backbone.kv_heads": backbone.num_kv_heads,
        "backbone.rotary": [float(f"{angle:.5g}") for angle in backbone.rotary.frequencies.tolist()],
        "backbone.layout": backbone.config.layout,
        "backbone.system_prompt": backbone.prefix_text(),
        "backbone.pixels": {field.name: getattr(recipe, field.name) for field in fields(recipe)},
        "video.fps": fps,
        "stream.chunk_frames": chunk_frames,
    }
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: object) -> Any:
    """Plain values that JSON holds; a policy whose settings are none is known by its class alone."""
    try:
        return plain_json(to_dict(value))
    except InputError:
        return {"name": type(value).__qualname__}


def _compare(
    like: Stream,
    path: Path,
    record: Mapping[str, Any],
    about: _Stream,
    chunk_frames: int,
    config: MemoryConfig,
) -> None:
    """Refuse a stream that was saved under other settings; say of an older one what it does not tell."""
    saved = record.get("settings", {})
    if not isinstance(saved, dict):
        raise InputError(f"{path / 'memory.json'}: settings: not an object")
    backbone, policy = like.backbone, like.policy
    mine = _model_settings(backbone, like.fps, chunk_frames)
    if policy.bound == "unbounded":
        # It keeps every token, however they came.
        del mine["stream.chunk_frames"]
    found = [
        (name, saved[name], value) for name, value in mine.items() if name in saved and saved[name] != value
    ]
    layers = len(record["layers"]) if isinstance(record["layers"], list) else record["layers"]
    pairs = [
        ("backbone.layers", layers, backbone.num_layers),
        ("memory.clock", record.get("clock"), config.clock),
        ("memory.keep_written", record.get("keep_written"), config.keep_written),
        ("policy", about.policy, type(policy).__name__),
    ]
    found += [(name, was, now) for name, was, now in pairs if was != now]
    if not found and "policy" in saved:
        found += _differences(policy, saved["policy"], "policy")
    # Last, since it takes longest.
    if not found and "backbone.weights" in saved:
        was, now = saved["backbone.weights"], weights_fingerprint(backbone)
        found += [("backbone.weights", was, now)] if was != now else []
    if found:
        name, was, now = found[0]
        others = ", ".join(dict.fromkeys(other for other, *_ in found[1:] if other != name))
        hint = f"These differ, too: {others}." if others else ""
        raise SettingError(name, now, f"{was!r}, with which {path} was saved", hint)
    if unknown := sorted({*mine, "backbone.weights", "policy"} - saved.keys()):
        logger.warning(
            "%s was saved by an earlier version, which did not note %s: not compared",
            path,
            ", ".join(unknown),
        )


def _differences(own: object, saved: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ: name, saved value, own value. What was saved is compared and never built."""
    if where.endswith(_FREE):
        return
    plain = _plain(own)
    if json.dumps(plain) == json.dumps(saved):
        return
    if dataclasses.is_dataclass(own) and isinstance(saved, dict):
        if isinstance(own, Part) and saved.get("name") != plain.get("name"):
            yield where, saved.get("name"), plain.get("name")
            return
        known = settings_of(type(own))
        for name, value in saved.items():
            if name != "name" and name not in known:
                yield f"{where}.{name}", value, None
        for name, each in known.items():
            # One that came later was then at its default.
            was = saved[name] if name in saved else _plain(each.default())
            yield from _differences(getattr(own, name), was, f"{where}.{name}")
    elif isinstance(own, Mapping) and isinstance(saved, dict):
        # The order of tiers counts.
        if list(saved) != [str(key) for key in own]:
            yield where, list(saved), [str(key) for key in own]
            return
        for key, value in own.items():
            yield from _differences(value, saved[str(key)], f"{where}.{key}")
    else:
        yield where, saved, plain


def _check_shapes(backbone: Backbone, path: Path, memory: KVMemory) -> None:
    """Refuse a memory that this decoder could not have written."""
    for layer in memory:
        if layer.keys is None:
            continue
        heads = layer.keys.shape[1]
        if heads != backbone.num_kv_heads:
            raise SettingError("backbone.kv_heads", backbone.num_kv_heads, f"{heads}, as in {path}")
        if layer.keys.dtype != backbone.dtype:
            was = str(layer.keys.dtype).removeprefix("torch.")
            raise SettingError("backbone.dtype", str(backbone.dtype), f"{was}, as in {path}")
