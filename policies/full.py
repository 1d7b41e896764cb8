"""Keep everything: the upper bound that memory policies are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from hermes.attention import Observer
from hermes.config import setting
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Never, Reindexer
from hermes.policy import MemoryPolicy


@dataclass
class Full(MemoryPolicy):
    """The full cache: nothing is evicted, the memory grows with the stream.

    A control. The budget is not used; positions are never re-indexed, so a stream
    longer than the decoder's range leaves it.
    """

    bound: ClassVar[Literal["bounded", "growing", "unbounded"]] = "unbounded"

    budget: int = setting(4000, help="not used: nothing is evicted", unit="tokens", ge=1)
    reindex: Reindexer = setting(Never(), help="when positions become dense again")

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Keep every token."""
        return {}
