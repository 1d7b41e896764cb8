"""StreamingVLM: a window of the last seconds, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from hermes.attention import Observer
from hermes.config import setting
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Eager, Reindexer
from hermes.policy import MemoryPolicy


@dataclass
class StreamingVLM(MemoryPolicy):
    """Keep the video of the last rounds; a round that leaves the window leaves it whole.

    Source: arXiv 2510.09608, Sec. 3. Rounds of one second, a window of 16 of them, or of as many as the
    budget holds. Positions are contiguous in the cache after each eviction (eager; the authors' "shrink");
    ``policy.reindex=lazy`` is their "append". Differences: no dialogue is held between questions here, so
    their text sink and window of past answers, 512 tokens each, have nothing to hold but the prefix; a
    timestamp leaves with its round, as the user's text does there; their quality is of a model trained for
    this, and any model can be used here. Where a round alone exceeds the budget, its newest tokens stay.
    """

    source: ClassVar[str] = "arXiv 2510.09608"

    budget: int = setting(4000, help="video tokens a layer holds at most", unit="tokens", ge=1)
    window: int = setting(16, help="rounds held at most", unit="rounds", ge=1)
    round: float = setting(1.0, help="length of a round", unit="s", gt=0)
    reindex: Reindexer = setting(Eager(), help="when positions become dense again")

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Keep the newest whole rounds that the window and the budget hold."""
        if memory[0].video_length == 0:
            return {}
        # All layers hold the same tokens; frame times are multiples of a frame's length, give or take.
        number = torch.floor(memory[0].video.time[0, 0] / self.round + 1e-6)
        rounds, sizes = number.unique(return_counts=True)
        in_budget = sizes.flip(0).cumsum(0).flip(0) <= self.budget
        in_window = rounds > rounds[-1] - self.window
        kept = rounds[in_budget & in_window]
        if len(kept) == len(rounds):
            return {}
        keep = torch.isin(number, kept).nonzero().flatten()
        if not len(keep):
            keep = torch.arange(len(number) - self.budget, len(number))
        return memory.keeping(keep)
