"""DSCache: a FIFO cache of the past, and the newest frames encoded afresh beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from hermes.attention import Observer
from hermes.config import setting
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Eager, Reindexer
from hermes.policy import FrameBuffer, MemoryPolicy, Recall, StreamContext, encode_apart, frames_that_fit
from hermes.video import Frame


@dataclass
class DSCache(MemoryPolicy):
    """Hold the newest frames raw and the ones before as a FIFO cache; a question sees both.

    Source: arXiv 2605.01858 ("Decouple and Cache"). A frame is encoded into the cumulative cache when it
    leaves the raw buffer; at a question the raw frames are encoded over the prefix alone (the instant cache),
    which is put behind the cumulative one with contiguous positions (eager re-indexing). Nothing of that is
    written back.

    Differences: frames are held as pixels, not as projected features, and go through the vision tower at each
    question; a frame is encoded over the whole cumulative cache, where the paper takes a recent slice of a
    size it does not give; the newest frame is not encoded at a higher resolution; both caches share
    ``budget``, of which the raw frames take at most ``share``, but at least one frame.
    """

    source: ClassVar[str] = "arXiv 2605.01858"

    budget: int = setting(4000, help="tokens of both caches in a layer", unit="tokens", ge=1)
    recent: int = setting(4, help="raw frames held at most, l_i", unit="frames", ge=1)
    share: float = setting(0.5, help="share of the budget that raw frames may take", gt=0, le=1)
    frames: int | None = setting(28, help="frames cached at most, l_u; null: what fits", unit="frames", ge=1)
    stride: int = setting(1, help="a question sees every n-th cached frame, from the newest back", ge=1)
    reindex: Reindexer = setting(Eager(), help="when positions become dense again")
    buffer: FrameBuffer = field(default_factory=FrameBuffer, init=False, repr=False, compare=False)
    reserved: int = field(default=0, init=False, repr=False, compare=False)

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with no frame held."""
        super().start(context)
        self.buffer, self.reserved = FrameBuffer(context.frames_per_group), 0

    def admit(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Hold the newest frames; those that leave are encoded.

        Raises:
            SettingError: a budget below the tokens of one frame, or one group of frames.
        """
        frame, group = frames[-1], self.context.frames_per_group
        fit = frames_that_fit(self.context, frame, self.budget)
        cost = self.context.tokens_per_frame(*frame.image.shape[:2])
        wanted = min(self.recent, int(self.share * self.budget) // cost, fit)
        room = max(wanted // group * group, group)
        self.reserved = room * cost
        return self.buffer.push(frames, room)

    @property
    def needs_pixels(self) -> bool:
        """It holds pictures."""
        return True

    @property
    def resident_bytes(self) -> int:
        """Bytes of the raw frames."""
        return self.buffer.resident_bytes

    def state(self) -> Mapping[str, torch.Tensor]:
        """The held frames, and the tokens they may take."""
        return {**self.buffer.state(), "reserved": torch.tensor(self.reserved)}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Hold the same frames."""
        self.buffer.restore(state)
        self.reserved = int(state["reserved"])

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Keep the newest whole frames that are within ``frames`` and the rest of the budget."""
        if memory[0].video_length == 0:
            return {}
        frame = memory[0].video.frame[0, 0]
        numbers, sizes = frame.unique(return_counts=True)
        fit = sizes.flip(0).cumsum(0).flip(0) <= self.budget - self.reserved
        if self.frames is not None:
            # A group of frames is one number.
            fit[: -max(self.frames // self.context.frames_per_group, 1)] = False
        if bool(fit.all()):
            return {}
        keep = torch.isin(frame, numbers[fit]).nonzero().flatten()
        return memory.keeping(keep)

    def recall(self, call: Recall) -> None:
        """Thin the cumulative cache, and put the instant cache behind it."""
        if self.stride > 1 and call.memory[0].video_length:
            frame = call.memory[0].video.frame[0, 0]
            seen = frame.unique().flip(0)[:: self.stride]
            keep = torch.isin(frame, seen).nonzero().flatten()
            call.memory.apply(call.memory.keeping(keep), compact=True)
        if self.buffer.frames:
            encode_apart(call, list(self.buffer.frames))
