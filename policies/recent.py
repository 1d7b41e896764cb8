"""The last frames, encoded afresh at the question: no memory at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch

from hermes.config import setting
from hermes.errors import SettingError
from hermes.memory import KVMemory, LayerUpdate
from hermes.observe import Observer
from hermes.policy import MemoryPolicy, Recall, StreamContext
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
    held: deque[Frame] = field(default_factory=deque, init=False, repr=False, compare=False)

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with no frame held."""
        super().start(context)
        self.held = deque()

    def admit(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Hold the newest frames; none is encoded now.

        Raises:
            SettingError: a budget below the tokens of one frame, or one group of frames.
        """
        self.held.extend(frames)
        height, width = frames[-1].image.shape[:2]
        group = self.context.frames_per_group
        cost = self.context.tokens_per_frame(height, width) * group
        room = self.frames or self.budget // cost * group
        if room < 1:
            unit = "frame" if group == 1 else "group of frames"
            raise SettingError("policy.budget", self.budget, f"at least {cost}, the tokens of one {unit}")
        while len(self.held) > room:
            self.held.popleft()
        return ()

    def state(self) -> Mapping[str, torch.Tensor]:
        """The held frames: images ``[n, H, W, 3]``, their times (s) and numbers."""
        if not self.held:
            return {}
        return {
            "images": torch.from_numpy(np.stack([frame.image for frame in self.held])),
            "times": torch.tensor([frame.time for frame in self.held], dtype=torch.float64),
            "numbers": torch.tensor([frame.index for frame in self.held]),
        }

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Hold the same frames."""
        if state:
            columns = (state["images"].numpy(), state["times"].tolist(), state["numbers"].tolist())
            rows = zip(*columns, strict=True)
            self.held = deque(Frame(image, time, number) for image, time, number in rows)

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Evict nothing: only the prefix is held."""
        return {}

    def recall(self, call: Recall) -> None:
        """Encode the held frames into the fork that answers."""
        call.encode(list(self.held))
