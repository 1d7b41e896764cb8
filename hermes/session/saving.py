"""A stream written to a folder and taken up again: its memory, its clocks, and what its policy holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from hermes.decoding.observer import DecoderObserver
from hermes.dialogue import Round
from hermes.errors import InputError
from hermes.memory import load_memory, load_record, save_memory
from hermes.tokens import VideoState

if TYPE_CHECKING:
    from hermes.session.session import StreamSession

__all__ = ["load_stream", "save_stream"]

_POLICY = "policy.safetensors"


def save_stream(session: StreamSession, folder: str | Path) -> None:
    """Write a stream in which no frame waits (this project); :func:`load_stream` goes on from it.

    Beside the memory's files, ``policy.safetensors`` holds the policy's own state and the random generator's.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    own = {f"policy.{name}": tensor.contiguous() for name, tensor in session.policy.state().items()}
    # First, and renamed: the memory's record, which is written last, makes the folder whole.
    save_file({"generator": session.context.generator.get_state(), **own}, path / f"{_POLICY}.part")
    (path / f"{_POLICY}.part").replace(path / _POLICY)
    state = {
        "video": asdict(session.video),
        "policy": type(session.policy).__name__,
        "frames_seen": session.frames_seen,
        "now": session.now,
        "history": [asdict(turn) for turn in session.context.history],
    }
    save_memory(session.memory, path, state)


def load_stream(session: StreamSession, folder: str | Path) -> None:
    """Put a session where :func:`save_stream` left another (this project).

    Raises:
        InputError: no saved stream there, or one of another decoder or policy.
    """
    path, state = Path(folder), load_record(folder)
    memory = load_memory(path, session.backbone.rotary, session.backbone.device)
    if len(memory.layers) != session.backbone.num_layers or "video" not in state:
        raise InputError(f"{path}: not a stream of a model with {session.backbone.num_layers} layers")
    name = type(session.policy).__name__
    if state["policy"] != name or not (path / _POLICY).is_file():
        raise InputError(f"{path}: a stream of the policy {state['policy']}; this session's is {name}")
    session.reset()
    memory.use(session.memory.kernels)
    session.memory, session.observer = memory, DecoderObserver(session.backbone, memory)
    session.video = VideoState(**state["video"])
    session.frames_seen, session.now = state["frames_seen"], state["now"]
    session.context.history.extend(
        Round(turn["question"], turn["answer"], tuple(turn["choices"])) for turn in state["history"]
    )
    tensors: dict[str, torch.Tensor] = load_file(path / _POLICY)
    session.context.generator.set_state(tensors.pop("generator"))
    session.policy.restore({key.removeprefix("policy."): tensor for key, tensor in tensors.items()})
    session.mark_started()
