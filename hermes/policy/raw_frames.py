"""The newest frames of a stream, held raw, and encoded afresh at a question."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hermes.errors import SettingError
from hermes.memory import append_memory
from hermes.policy.policy import Recall, StreamContext
from hermes.video import Frame


class FrameBuffer:
    """Raw frames, first in, first out.

    Args:
        group: frames leave in multiples of this, so that those encoded together leave together.
    """

    def __init__(self, group: int = 1) -> None:
        self.group = group
        self.frames: deque[Frame] = deque()

    def push(self, frames: Sequence[Frame], room: int) -> list[Frame]:
        """Take frames in and hold the newest ``room``; returns those that had to leave, in order."""
        self.frames.extend(frames)
        over = -(-max(len(self.frames) - room, 0) // self.group) * self.group
        return [self.frames.popleft() for _ in range(min(over, len(self.frames)))]

    @property
    def resident_bytes(self) -> int:
        """Of the images, and of each one's time and number."""
        return sum(frame.image.nbytes + 16 for frame in self.frames)

    def state(self) -> dict[str, Tensor]:
        """The frames: images ``[n, H, W, 3]``, their times (s) and numbers; nothing where there are none."""
        if not self.frames:
            return {}
        return {
            "images": torch.from_numpy(np.stack([frame.image for frame in self.frames])),
            "times": torch.tensor([frame.time for frame in self.frames], dtype=torch.float64),
            "numbers": torch.tensor([frame.index for frame in self.frames]),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold the frames of :meth:`state` again."""
        self.frames = deque()
        if "images" in state:
            columns = (state["images"].numpy(), state["times"].tolist(), state["numbers"].tolist())
            self.frames.extend(Frame(*row) for row in zip(*columns, strict=True))


def frames_that_fit(context: StreamContext, frame: Frame, tokens: int) -> int:
    """How many frames of this size fit so many tokens, in whole groups.

    Raises:
        SettingError: not one.
    """
    group = context.frames_per_group
    cost = context.tokens_per_frame(*frame.image.shape[:2]) * group
    if tokens < cost:
        unit = "frame" if group == 1 else "group of frames"
        raise SettingError("policy.budget", tokens, f"at least {cost}, the tokens of one {unit}")
    return tokens // cost * group


def encode_apart(call: Recall, frames: Sequence[Frame]) -> None:
    """Encode frames over the prefix alone, and put what they give behind the memory that answers.

    Source: arXiv 2605.01858, the instant cache. The frames do not see the memory; the question sees both.
    On a decoder with windows or recurrent layers they do see what those hold.
    """
    apart = call.memory.fork()
    apart.apply(apart.keeping(torch.arange(0)))
    call.encode(frames, into=apart)
    append_memory(call.memory, apart)
