"""First in, first out: the newest tokens or frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from hermes.attention import Observer
from hermes.config import setting
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Lazy, Reindexer
from hermes.policy import MemoryPolicy


@dataclass
class Fifo(MemoryPolicy):
    """Keep the newest ``budget`` video tokens of every layer; ``align: frame`` rounds down to whole frames.

    Source: arXiv 2601.14724, Sec. 2 (the attention study's cache: 6 000 tokens, eager re-indexing).
    """

    stateless: ClassVar[bool] = True

    budget: int = setting(4000, help="video tokens a layer holds", unit="tokens", ge=1)
    align: Literal["token", "frame"] = setting("token", help="cut anywhere, or between frames")
    reindex: Reindexer = setting(Lazy(), help="when positions become dense again")

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Keep the newest tokens once a layer is over budget."""
        length = memory[0].video_length
        if length <= self.budget:
            return {}
        first = length - self.budget
        if self.align == "frame":
            frame = memory[0].video.frame[0, 0]
            # The first frame that is still whole; all layers hold the same tokens.
            starts = (torch.cat((frame[:1] - 1, frame[:-1])) != frame).nonzero().flatten()
            whole = starts[starts >= first]
            first = int(whole[0]) if len(whole) else first
        return memory.keeping(torch.arange(first, length, device=memory[0].keys.device))
