"""Evenly spread tokens or frames over the whole stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from hermes.attention import Observer
from hermes.config import setting
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Lazy, Reindexer
from hermes.policy import MemoryPolicy


@dataclass
class Uniform(MemoryPolicy):
    """Keep the tokens nearest to an even spread over everything written so far.

    A control. An even stride over what is *held* would thin the past again at every
    step; this one places its targets evenly over the stream's token ids, or over its frames
    (``align: frame``), and keeps the nearest token, or whole frame, to each.
    """

    budget: int = setting(4000, help="video tokens a layer holds", unit="tokens", ge=1)
    align: Literal["token", "frame"] = setting("token", help="spread tokens, or whole frames")
    reindex: Reindexer = setting(Lazy(), help="when positions become dense again")

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Keep an even spread once a layer is over budget."""
        video = memory[0].video
        if len(video) <= self.budget:
            return {}
        if self.align == "token":
            keep = _spread(video.id[0, 0], self.budget)
        else:
            frames, at, counts = video.frame[0, 0].unique(return_inverse=True, return_counts=True)
            room = max(self.budget // int(counts.max()), 1)
            chosen = torch.zeros(len(frames), dtype=torch.bool, device=at.device)
            chosen[_spread(frames, min(room, len(frames)))] = True
            keep = chosen[at].nonzero().flatten()[: self.budget]
        return memory.keeping(keep)


def _spread(values: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of ``count`` ascending values, each near one of ``count`` targets spread from first to last.

    >>> _spread(torch.tensor([0, 1, 2, 3, 10]), 3).tolist()
    [0, 3, 4]
    """
    length = len(values)
    targets = torch.linspace(
        float(values[0]), float(values[-1]), count, device=values.device, dtype=torch.float64
    )
    right = torch.searchsorted(values.double(), targets).clamp(max=length - 1)
    left = (right - 1).clamp(min=0)
    nearest = torch.where(targets - values[left] < values[right] - targets, left, right)
    # Each index once: pushed up past its predecessors, then down from the end.
    steps = torch.arange(count, device=values.device)
    up = (nearest - steps).cummax(0).values + steps
    return torch.minimum(up, length - count + steps)
