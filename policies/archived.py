"""Any policy with an archive behind it: what it evicts is stored, and a question reads some of it again."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.attention import AttentionProbe, Observer
from hermes.config import setting
from hermes.errors import SettingError
from hermes.memory import KVLayer, KVMemory, LayerUpdate, insert_blocks
from hermes.parts import RandomScore, Reindexer, TopK
from hermes.policy import (
    Archiving,
    Context,
    MemoryPolicy,
    Recall,
    Store,
    StreamContext,
    Tier,
    TieredPolicy,
    best,
    mean_keys,
    question_queries,
    similarity,
)
from hermes.tokens import Chunk
from hermes.video import Frame

_PLAIN = TieredPolicy(tiers={"all": Tier(1.0, RandomScore())})
_BEFORE = TieredPolicy(tiers={"all": Tier(1.0, RandomScore())}, selector=TopK(timestamps=0.0))


@dataclass
class Archived(Archiving):
    """Let ``inner`` keep the memory, archive what it evicts, and retrieve pages of it at a question.

    Retrieval as in arXiv 2503.00540 (ReKV). Each layer's evicted tokens of a step are
    stored in pages of ``page`` in time order. At a question a layer's best pages, within ``share`` of the
    budget, come before the memory, with contiguous positions for both; the memory has the rest of the
    budget. As an evicted token may be older or newer than one that stayed, time order holds among pages
    only. With ``need`` a page is read only where it answers the question better than anything in the memory.

    Raises:
        SettingError: an inner policy that is not bounded, or has an archive of its own.
    """

    needs_attention: ClassVar[bool] = True

    budget: int = setting(4000, help="video tokens an answer reads a layer", unit="tokens", ge=2)
    inner: MemoryPolicy = setting(
        _PLAIN, before=_BEFORE, help="the policy that keeps the memory; its budget is not used"
    )
    share: float = setting(0.5, help="of the budget, for pages out of the archive", gt=0, lt=1)
    page: int = setting(16, help="tokens stored and read together", unit="tokens", ge=1)
    need: float | None = setting(
        None, help="read pages alone that beat the memory's own best page by this similarity; null: any"
    )
    measure: Literal["dot", "cosine"] = setting("cosine", help="of mean query and mean key")
    question_over: Context = setting("memory", help="what the question sees when its queries are taken")
    store: Store = setting(Store(), help="of the archive")

    def __post_init__(self) -> None:
        if self.inner.bound != "bounded" or isinstance(self.inner, Archiving):
            raise SettingError("inner", type(self.inner).__name__, "a bounded policy without an archive")

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with a policy of its own inside."""
        super().start(context)
        self.live = copy.deepcopy(self.inner)
        self.live.budget = self.budget - int(self.share * self.budget)
        self.live.start(context)

    def admit(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Choose frames as the inner policy does."""
        return self.live.admit(frames)

    def reduce(self, chunk: Chunk) -> Chunk:
        """Reduce a chunk as the inner policy does."""
        return self.live.reduce(chunk)

    def watch(self) -> AttentionProbe | None:
        """The inner policy's probe."""
        return self.live.watch()

    @property
    def reads_again(self) -> bool:
        """Whether the inner policy has chunks read a second time."""
        return getattr(self, "live", self.inner).reads_again

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Keep what the inner policy keeps."""
        return self.live.compress(memory, observe)

    @property
    def needs_saliency(self) -> bool:
        """Whether the inner policy needs saliency."""
        return self.inner.needs_saliency

    @property
    def needs_pixels(self) -> bool:
        """Whether the inner policy needs pictures."""
        return self.inner.needs_pixels

    @property
    def reindexing(self) -> Reindexer:
        """The inner policy's re-indexer."""
        return getattr(self, "live", self.inner).reindexing

    def archive(self, memory: KVMemory, updates: Mapping[int, LayerUpdate], observe: Observer) -> None:
        """Store what each layer is about to lose."""
        slots, sizes = {}, {}
        for index, update in updates.items():
            keep, length = update.keep, memory[index].length
            gone = torch.ones(*keep.shape[:2], length, dtype=torch.bool, device=keep.device)
            gone.scatter_(-1, keep, False)
            count = length - keep.shape[-1]
            # Every row loses as many.
            slots[index] = gone.nonzero()[:, 2].view(*keep.shape[:2], count)
            sizes[index] = [min(self.page, count - at) for at in range(0, count, self.page)]
        self.archived.add(memory, slots, sizes)

    def recall(self, call: Recall) -> None:
        """Let the inner policy recall, and put each layer's best pages before the memory."""
        self.live.recall(call)
        if not any(self.archived.sizes):
            return
        blocks, keep = {}, {}
        for layer, query in zip(call.memory, question_queries(call, self.question_over), strict=True):
            at = layer.index
            blocks[at] = self.archived.read(at, self._pages(layer, query), layer.keys.device)
            keep[at] = torch.arange(layer.prefix, layer.length)[None, None]
        if any(blocks.values()):
            insert_blocks(call.memory, blocks, keep)

    def _pages(self, layer: KVLayer, query: Float[Tensor, "H D"]) -> list[int]:
        sizes, room = self.archived.sizes[layer.index], int(self.share * self.budget)
        scores = similarity(query, self.archived.index(layer.index)[0], self.measure)
        least = -math.inf
        if self.need is not None and layer.video_length:
            slots = torch.arange(layer.prefix, layer.length, device=layer.keys.device)
            held = layer.take(slots[None, None])
            pages = held.split([min(self.page, len(held) - i) for i in range(0, len(held), self.page)])
            least = max(similarity(query, mean_keys(layer, pages)[0], self.measure)) + self.need
        able = [i for i, size in enumerate(sizes) if size <= room and scores[i] > least]
        return [able[i] for i in best([scores[i] for i in able], [sizes[i] for i in able], room)]

    @property
    def resident_bytes(self) -> int:
        """Bytes of the archive's index, and of what the inner policy holds."""
        return super().resident_bytes + self.live.resident_bytes

    def state(self) -> Mapping[str, Tensor]:
        """The archive, and what the inner policy holds."""
        return {**super().state(), **{f"inner/{name}": x for name, x in self.live.state().items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Fill the archive and the inner policy with what :meth:`state` gave."""
        super().restore(state)
        own = {name.removeprefix("inner/"): x for name, x in state.items() if name.startswith("inner/")}
        self.live.restore(own)
