"""HERMES for the past, the newest frames encoded afresh at the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from hermes.config import setting
from hermes.policy import (
    FrameBuffer,
    Recall,
    StreamContext,
    Tier,
    TieredPolicy,
    encode_apart,
    frames_that_fit,
    hierarchy,
)
from hermes.video import Frame


@dataclass
class HermesRecent(TieredPolicy):
    """Hierarchical memory for the past and the newest frames exact.

    Source: after arXiv 2601.14724 (the memory) and 2605.01858 (the raw frames). The newest
    frames are held raw and enter the memory when they leave; ``share`` of the budget is set aside for them,
    the tiers hold the rest, so that a question never sees more than the budget; what ``frames`` do not fill
    of the share stays empty, so choose both together. At a question the raw frames are encoded over the
    memory, or over the prefix alone and put behind it (``over: prefix``). Everything else is ``hermes``,
    positions included (lazy re-indexing).

    To keep the newest frames in the memory un-evicted instead: ``hermes`` with
    ``policy.selector.recent_frames=4`` (``policy=hermes_kept``).

    >>> HermesRecent(budget=100, share=0.4).room
    60
    """

    source: ClassVar[str] = "arXiv 2601.14724, 2605.01858"
    needs_attention: ClassVar[bool] = True
    stateless: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting(hierarchy(), help="sensory, working and long-term memory")
    frames: int = setting(4, help="raw frames held, if the share has room for them", unit="frames", ge=1)
    share: float = setting(0.5, help="share of the budget set aside for them", gt=0, lt=1)
    over: Literal["memory", "prefix"] = setting("memory", help="what the raw frames see when encoded")
    buffer: FrameBuffer = field(default_factory=FrameBuffer, init=False, repr=False, compare=False)

    @property
    def room(self) -> int:
        """Tokens a layer of the memory may hold: the budget less the raw frames' share."""
        return self.budget - int(self.share * self.budget)

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with no frame held."""
        super().start(context)
        self.buffer = FrameBuffer(context.frames_per_group)

    def admit(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Hold the newest frames; those that leave are encoded.

        Raises:
            SettingError: a share of the budget below the tokens of one frame, or one group of frames.
        """
        group = self.context.frames_per_group
        fit = frames_that_fit(self.context, frames[-1], self.budget - self.room)
        return self.buffer.push(frames, max(min(self.frames, fit) // group * group, group))

    @property
    def needs_pixels(self) -> bool:
        """It holds pictures."""
        return True

    @property
    def resident_bytes(self) -> int:
        """Of the raw frames, and of what scorers follow."""
        return super().resident_bytes + self.buffer.resident_bytes

    def state(self) -> Mapping[str, torch.Tensor]:
        """The held frames, and what scorers have seen of the chunks' attention."""
        return {**super().state(), **self.buffer.state()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Hold the frames again, and give scorers back what they had seen."""
        super().restore(state)
        self.buffer.restore(state)

    def recall(self, call: Recall) -> None:
        """Encode the held frames into the fork that answers."""
        if self.buffer.frames and self.over == "prefix":
            encode_apart(call, list(self.buffer.frames))
        elif self.buffer.frames:
            call.encode(list(self.buffer.frames))
