"""The last frames, encoded afresh at the question: no memory at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from hermes.attention import Observer
from hermes.config import setting
from hermes.memory import KVMemory, LayerUpdate
from hermes.policy import FrameBuffer, MemoryPolicy, Recall, StreamContext, frames_that_fit
from hermes.video import Frame


@dataclass
class Recent(MemoryPolicy):
    """Hold the last n raw frames and encode them at the question, with nothing before them.

    Source: SimpleStream's finding (2026) that a few fresh frames are a hard baseline. n is ``frames``, or
    as many frames as fit ``budget`` tokens. Nothing is encoded while the stream runs; TTFT pays for it.
    """

    unit: ClassVar[Literal["tokens", "frames"]] = "frames"

    budget: int = setting(
        4000, help="tokens the frames may take together; those that fit are held", unit="tokens", ge=1
    )
    frames: int | None = setting(None, help="frames held, however many tokens they take", unit="frames", ge=1)
    buffer: FrameBuffer = field(default_factory=FrameBuffer, init=False, repr=False, compare=False)

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with no frame held."""
        super().start(context)
        self.buffer = FrameBuffer()

    def admit(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Hold the newest frames; none is encoded now.

        Raises:
            SettingError: a budget below the tokens of one frame, or one group of frames.
        """
        self.buffer.push(frames, self.frames or frames_that_fit(self.context, frames[-1], self.budget))
        return ()

    @property
    def needs_pixels(self) -> bool:
        """It holds pictures."""
        return True

    @property
    def resident_bytes(self) -> int:
        """Bytes of the raw frames."""
        return self.buffer.resident_bytes

    def state(self) -> Mapping[str, torch.Tensor]:
        """The held frames, for saving a stream."""
        return self.buffer.state()

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Hold the same frames."""
        self.buffer.restore(state)

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Evict nothing: only the prefix is held."""
        return {}

    def recall(self, call: Recall) -> None:
        """Encode the held frames into the fork that answers."""
        call.encode(list(self.buffer.frames))
