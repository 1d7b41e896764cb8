"""StreamKV: segments with a summary each, frames kept and retrieved under one threshold for all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.attention import Observer
from hermes.config import setting
from hermes.dialogue import GuidancePrompts
from hermes.memory import KVLayer, KVMemory, LayerUpdate, Tokens
from hermes.parts import Eager, Reindexer
from hermes.policy import (
    Context,
    FrameRetrieval,
    Store,
    StreamContext,
    head_means,
    mean_keys,
    newer,
    run_lengths,
    segmented,
    shared_threshold,
    similarity,
)
from hermes.tokens import Chunk

# Ids of summaries, below those that the memory gives to mixes.
_SUMMARIES = -(2**40)


@dataclass
class StreamKv(FrameRetrieval):
    """Archive of a segment the frames a prompt finds worth it, each layer its own number of them.

    Source: arXiv 2511.07278. A segment ends where the mean embeddings of two frames have a cosine below
    ``boundary``, after at least ``least`` and at most ``most`` frames. Its mean embedding is read as one more
    token, which stays. A guidance prompt's mean query scores each frame's mean un-rotated key by cosine;
    after a softmax inside the layer, one threshold for all layers keeps ``1 - compression`` of the frames on
    average. A question retrieves by the same rule, ``blocks`` frames a layer on average (there 8).

    Differences: the prompt is asked after the chunk in which a segment ends, all of the window in sight; a
    segment takes at most half of the window; the release's limits around the average per layer are not known;
    an answer reads summaries, frames and the segment that has not ended. The system prompt stays.
    """

    source: ClassVar[str] = "arXiv 2511.07278"
    needs_attention: ClassVar[bool] = True

    budget: int = setting(4000, help="video tokens a layer holds, and an answer reads", unit="tokens", ge=1)
    boundary: float = setting(0.99, help="cosine of two frames below which a segment ends")
    least: int = setting(4, help="shortest segment", unit="frames", ge=1)
    most: int = setting(64, help="longest segment", unit="frames", ge=1)
    summaries: bool = setting(True, help="a token of every segment's mean embedding, for good")
    compression: float = setting(0.6, help="share of a segment's frames that is not archived", ge=0, lt=1)
    prompts: GuidancePrompts = setting(GuidancePrompts(), help="the guidance prompt is the global one")
    window: int | None = setting(None, help="of the sliding window; null: the budget", unit="tokens", ge=1)
    blocks: int | None = setting(None, help="frames a layer reads on average; null: as fit the budget", ge=1)
    recent: int = setting(0, help="newest tokens an answer reads at least", unit="tokens", ge=0)
    question_over: Context = setting("memory", help="what the question sees when its queries are taken")
    store: Store = setting(Store(), help="of the archive")
    reindex: Reindexer = setting(Eager(), help="when positions become dense again")
    # Mean embeddings of the frames of the segment that has not ended, [k, hidden].
    open: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    # Last ids of the segments that ended and are not archived; the last id that is; segments so far.
    ends: tuple[int, ...] = field(default=(), init=False, repr=False, compare=False)
    done: int = field(default=-1, init=False, repr=False, compare=False)
    count: int = field(default=0, init=False, repr=False, compare=False)

    def start(self, context: StreamContext) -> None:
        """Begin a stream, in its first segment."""
        super().start(context)
        self.open, self.ends, self.done, self.count = None, (), -1, 0

    def reduce(self, chunk: Chunk) -> Chunk:
        """Find where segments end, and put a summary there."""
        name = _SUMMARIES - self.count if self.summaries else None
        room = (self.window or self.budget) // 2
        chunk, self.open, ends = segmented(chunk, self.open, self.boundary, self.least, self.most, room, name)
        self.ends, self.count = (*self.ends, *ends), self.count + len(ends)
        return chunk

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Let the window slide; summaries stay in it."""
        summary = memory[0].video.id[0, 0] <= _SUMMARIES
        frames = (~summary).nonzero().flatten()
        window = self.window or self.budget
        if len(frames) <= window:
            return {}
        keep = torch.cat((summary.nonzero().flatten(), frames[len(frames) - window :]))
        return memory.keeping(keep)

    def archive(self, memory: KVMemory, updates: Mapping[int, LayerUpdate], observe: Observer) -> None:
        """Of the segments that have ended, the frames that the guidance prompt finds worth it."""
        if not self.ends:
            return
        queries = head_means(observe, self.prompts.render("global"))
        slots: dict[int, list[Tensor]] = {layer.index: [] for layer in memory}
        sizes: dict[int, list[int]] = {layer.index: [] for layer in memory}
        last = self.done
        for end in self.ends:
            here = newer(memory[0], last)
            here = here[..., memory[0].origin.id[0, 0, here[0, 0]] <= end]
            lengths, last = run_lengths(memory[0].origin.frame[0, 0, here[0, 0]]), end
            frames = here.split(lengths, dim=-1)
            scores = []
            for layer, query in zip(memory, queries, strict=True):
                scores.append(self.scores(query, mean_keys(layer, layer.take(here).split(lengths))[0]))
            count = round((1 - self.compression) * len(frames) * len(scores))
            for at, chosen in enumerate(shared_threshold(scores, count)):
                slots[at] += [frames[i] for i in chosen]
                sizes[at] += [lengths[i] for i in chosen]
        kept = {at: torch.cat(found, dim=-1) for at, found in slots.items() if found}
        self.archived.add(memory, kept, sizes)
        self.ends, self.done = (), last

    def scores(self, query: Float[Tensor, "H D"], index: Float[Tensor, "N H D"]) -> list[float]:
        """Cosine of the mean query and the mean key."""
        return similarity(query, index, "cosine")

    def choose(self, scores: Sequence[list[float]], sizes: Sequence[list[int]], room: int) -> list[list[int]]:
        """Choose blocks by one threshold for all layers."""
        largest = max((size for one in sizes for size in one), default=1)
        return shared_threshold(scores, len(scores) * (self.blocks or max(room // largest, 1)))

    def newest(self, memory: KVMemory) -> int:
        """The segment that has not ended, or ``recent`` tokens if that is more."""
        return max(int((memory[0].video.id[0, 0] > self.done).sum()), super().newest(memory))

    def standing(self, layer: KVLayer, stop: int) -> list[Tokens]:
        """The summaries of past segments, for saving a stream."""
        slots = (layer.origin.id[0, 0, :stop] <= _SUMMARIES).nonzero()
        return [layer.take(slot[None, None]) for slot in slots]

    @property
    def resident_bytes(self) -> int:
        """Of the archive's index, and of the open segment."""
        return super().resident_bytes + (0 if self.open is None else self.open.nbytes)

    def state(self) -> Mapping[str, Tensor]:
        """The archive, and the segment that has not ended."""
        counts = torch.tensor([self.done, self.count, *self.ends])
        own = {"counts": counts} if self.open is None else {"counts": counts, "open": self.open}
        return {**super().state(), **own}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold the summaries of :meth:`state` again."""
        super().restore(state)
        self.done, self.count, *ends = state["counts"].tolist()
        self.ends, self.open = tuple(ends), state.get("open")
