"""StreamingLLM: attention sinks and a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from hermes.attention import Observer
from hermes.config import setting
from hermes.errors import SettingError
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Eager, Reindexer
from hermes.policy import MemoryPolicy


@dataclass
class StreamingLLM(MemoryPolicy):
    """Keep the first ``sinks`` video tokens of the stream and the newest others.

    Source: arXiv 2309.17453, Sec. 3.2. Difference: the text prefix, which is never evicted, is a sink
    already, so ``sinks`` counts video tokens besides it and may be 0. Positions are contiguous within the
    cache, as there: eager re-indexing.

    Raises:
        SettingError: as many sinks as the budget, or more.
    """

    source: ClassVar[str] = "arXiv 2309.17453"
    stateless: ClassVar[bool] = True

    budget: int = setting(4000, help="video tokens a layer holds, sinks included", unit="tokens", ge=1)
    sinks: int = setting(4, help="first video tokens always kept", unit="tokens", ge=0)
    reindex: Reindexer = setting(Eager(), help="when positions become dense again")

    def __post_init__(self) -> None:
        if self.sinks >= self.budget:
            raise SettingError("sinks", self.sinks, f"less than the budget of {self.budget}")

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Keep the sinks and the newest tokens once a layer is over budget."""
        length = memory[0].video_length
        if length <= self.budget:
            return {}
        device = memory[0].keys.device
        newest = torch.arange(length - self.budget + self.sinks, length, device=device)
        return memory.keeping(torch.cat((torch.arange(self.sinks, device=device), newest)))
