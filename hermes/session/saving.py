"""A stream written to a folder and taken up again: its memory, its clocks, and what its policy holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from hermes.dialogue import Round
from hermes.errors import InputError
from hermes.files import write_whole
from hermes.memory import KVMemory, load_memory, load_record
from hermes.session.stream import Stream
from hermes.tokens import VideoState

__all__ = ["SavedStream", "read_stream", "save_stream"]

_POLICY = "policy.safetensors"


def save_stream(stream: Stream, folder: str | Path) -> None:
    """Write a stream in which no frame waits; :func:`read_stream` reads it.

    Beside the memory's files, ``policy.safetensors`` holds the policy's own state and the random generator's.
    """
    path = Path(folder)
    own = {f"policy.{name}": tensor.contiguous() for name, tensor in stream.policy.state().items()}
    tensors = {"generator": stream.context.generator.get_state(), **own}
    # First: the memory's record, which is written last, makes the folder whole.
    write_whole(path / _POLICY, lambda aside: save_file(tensors, aside))
    state = {
        "video": asdict(stream.video),
        "policy": type(stream.policy).__name__,
        "frames_seen": stream.frames_seen,
        "now": stream.now,
        "history": [asdict(round_) for round_ in stream.context.history],
    }
    stream.memory.save(path, state)


@dataclass(frozen=True)
class SavedStream:
    """What a folder holds of a stream: its memory, its record, and the tensors of its policy."""

    memory: KVMemory
    record: Mapping[str, Any]
    policy: Mapping[str, Tensor]

    def restore(self, stream: Stream) -> None:
        """Put a fresh stream, whose memory is this one already, where the saved one was."""
        stream.video = VideoState(**self.record["video"])
        stream.frames_seen, stream.now = self.record["frames_seen"], self.record["now"]
        stream.context.history.extend(
            Round(one["question"], one["answer"], tuple(one["choices"])) for one in self.record["history"]
        )
        tensors = dict(self.policy)
        stream.context.generator.set_state(tensors.pop("generator"))
        stream.policy.restore({key.removeprefix("policy."): tensor for key, tensor in tensors.items()})
        # Budgets were checked when the stream began.
        stream.chunks = 1


def read_stream(stream: Stream, folder: str | Path) -> SavedStream:
    """What :func:`save_stream` wrote, checked against the stream that is to go on; nothing is changed.

    Raises:
        InputError: no saved stream there, or one of another decoder or policy.
    """
    path, record, backbone = Path(folder), load_record(folder), stream.backbone
    memory = load_memory(path, backbone.rotary, backbone.device)
    if len(memory.layers) != backbone.num_layers or "video" not in record:
        raise InputError(f"{path}: not a stream of a model with {backbone.num_layers} layers")
    name = type(stream.policy).__name__
    if record["policy"] != name or not (path / _POLICY).is_file():
        raise InputError(f"{path}: a stream of the policy {record['policy']}; this session's is {name}")
    return SavedStream(memory, record, load_file(path / _POLICY))
