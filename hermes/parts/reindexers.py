"""Re-indexers: when positions become dense again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from hermes.config import Part, setting
from hermes.memory import KVMemory


class Reindexer(Part, ABC):
    """Decides after each chunk whether all layers compact their positions (arXiv 2601.14724, Sec. 3.3)."""

    kind: ClassVar[str] = "reindexer"

    @abstractmethod
    def due(self, memory: KVMemory, *, compressing: bool, max_position: int, extent: int) -> bool:
        """Whether to compact now.

        Args:
            memory: before this step's eviction.
            compressing: whether anything is evicted in this step.
            max_position: positions the decoder was built for.
            extent: positions the last chunk took.
        """


@dataclass
class Never(Reindexer):
    """Positions only grow: right for short videos, wrong beyond the decoder's range."""

    def due(self, memory: KVMemory, *, compressing: bool, max_position: int, extent: int) -> bool:
        """Positions are never compacted."""
        return False


@dataclass
class Eager(Reindexer):
    """Compact at each eviction (the paper's choice for offline video).

    Source: arXiv 2601.14724, Sec. 3.3, Tables 8 and 9.
    """

    def due(self, memory: KVMemory, *, compressing: bool, max_position: int, extent: int) -> bool:
        """Positions are compacted at each step that evicts."""
        return compressing


@dataclass
class Lazy(Reindexer):
    """Compact once the largest position passes ``max_position_embeddings - margin`` (streaming).

    Source: arXiv 2601.14724, Sec. 3.3, Tables 8 and 9. The release looks only when it compresses, and its
    margin leaves no room for a chunk longer than 1024 positions: ``whole_chunk`` adds the last chunk's
    extent, so that the next one stays in range.
    """

    margin: int = setting(1024, help="positions left free at the end of the decoder's range", ge=0)
    whole_chunk: bool = setting(True, help="leave room for another chunk besides the margin")
    only_compressing: bool = setting(False, help="look only at steps that evict, as the release does")

    def due(self, memory: KVMemory, *, compressing: bool, max_position: int, extent: int) -> bool:
        """Positions are compacted once one of them is past the limit."""
        if self.only_compressing and not compressing:
            return False
        limit = max_position - self.margin - (extent if self.whole_chunk else 0)
        # The largest clock bounds every position and is known without asking the device.
        return memory.top > limit and memory.largest_position() > limit
