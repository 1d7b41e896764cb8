"""Searching an archive: a question's queries, the score of each block, and which blocks to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.attention import Observer
from hermes.memory import KVLayer, KVMemory, LayerUpdate, Tokens, insert_blocks
from hermes.policy.archiving import Archiving
from hermes.policy.policy import Recall

__all__ = [
    "Context",
    "FrameRetrieval",
    "best",
    "head_means",
    "newer",
    "question_queries",
    "run_lengths",
    "shared_threshold",
    "similarity",
]

Context = Literal["memory", "prefix"]


def question_queries(call: Recall, over: Context = "memory") -> list[Float[Tensor, "H D"]]:
    """The question's mean un-rotated query of every layer and KV head: over its tokens and query heads.

    Source: arXiv 2503.00540 (ReKV), Sec. 3; there and elsewhere it is not said what the question sees when
    its queries are taken, so that this is a setting.

    Args:
        over: ``memory``, all that the fork holds; or ``prefix``, the bare question.
    """
    observe = call.observe
    if over == "prefix":
        bare = call.memory.fork()
        bare.apply(bare.keeping(torch.arange(0)))
        observe = observe.over(bare)
    return head_means(observe, call.question)


def head_means(observe: Observer, text: str) -> list[Float[Tensor, "H D"]]:
    """A text's mean un-rotated query of every layer and KV head, over its tokens and the head's queries.

    Source: arXiv 2503.00540 (ReKV).
    """
    heads = [layer.keys.shape[1] for layer in observe.memory]
    queries = observe.queries(text)
    return [q[0].mean(1).unflatten(0, (h, -1)).mean(1) for q, h in zip(queries, heads, strict=True)]


def similarity(
    query: Float[Tensor, "H D"],
    index: Float[Tensor, "N H D"],
    measure: Literal["dot", "cosine"] = "dot",
    per_head: bool = False,
) -> list[float]:
    """How well each block's mean key answers a query, all heads as one vector.

    Source: arXiv 2503.00540 (ReKV: the plain dot product). A sum over query heads is one over KV heads of the
    sum of their query heads: here of their mean, which is in proportion.

    Args:
        per_head: one cosine a head, and their mean, instead of one of all heads together.

    >>> similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]]]))
    [2.0, 0.0]
    """
    keys, query = index.float(), query.float().to(index.device)
    if not per_head:
        keys, query = keys.flatten(1).unsqueeze(1), query.flatten().unsqueeze(0)
    scores = (keys * query).sum(-1)  # [N, heads]
    if measure == "cosine":
        scores = scores / (keys.norm(dim=-1) * query.norm(dim=-1)).clamp(min=1e-12)
    out: list[float] = scores.mean(-1).tolist()
    return out


def best(scores: Sequence[float], sizes: Sequence[int], budget: int, count: int | None = None) -> list[int]:
    """The best-scored blocks, in time order: ``count`` of them, or those that fit a budget of tokens.

    With blocks of one size, the top ``budget // size``. The best one is always taken;
    of equal scores the earlier one.

    >>> best([0.1, 0.9, 0.5], [4, 4, 4], 9)
    [1, 2]
    """
    order = sorted(range(len(scores)), key=lambda at: -scores[at])
    if count is not None:
        return sorted(order[:count])
    chosen = order[:1]
    room = budget - sum(sizes[at] for at in chosen)
    for at in order[1:]:
        if sizes[at] > room:
            break
        chosen.append(at)
        room -= sizes[at]
    return sorted(chosen)


def shared_threshold(scores: Sequence[Sequence[float]], count: int) -> list[list[int]]:
    """The blocks whose share of their layer's softmax is above one threshold, ``count`` in all layers.

    Source: arXiv 2511.07278 (StreamKV), where the threshold is found by bisection.

    Returns:
        per layer, the blocks in time order; of equal ones those of earlier layers.

    >>> shared_threshold([[0.0, 9.0], [1.0, 1.1]], 3)
    [[1], [0, 1]]
    """
    shares = [torch.tensor(one, dtype=torch.float64).softmax(0).tolist() for one in scores]
    ranked = sorted((-share, at, i) for at, one in enumerate(shares) for i, share in enumerate(one))
    chosen: list[list[int]] = [[] for _ in scores]
    for _, at, i in ranked[:count]:
        chosen[at].append(i)
    return [sorted(one) for one in chosen]


def run_lengths(x: Int[Tensor, " T"]) -> list[int]:
    """Lengths of the runs of equal values: of frames, for the tokens' frame numbers.

    >>> run_lengths(torch.tensor([3, 3, 4, 7, 7]))
    [2, 1, 2]
    """
    if not len(x):
        return []
    cuts = (x[1:] != x[:-1]).nonzero().flatten().add(1).tolist()
    return [stop - start for start, stop in pairwise([0, *cuts, len(x)])]


def newer(layer: KVLayer, than: int) -> Int[Tensor, "1 1 K"]:
    """Slots of the video tokens with a larger id, of a layer whose heads hold the same."""
    ids = layer.video.id[0, 0]
    return ((ids > than).nonzero().flatten() + layer.prefix)[None, None]


class FrameRetrieval(Archiving):
    """A sliding window, an archive of every frame, and at a question each layer's best frames.

    Source: arXiv 2503.00540 (ReKV), generalised. A subclass is a dataclass with the settings named here, and
    may say how frames are scored and chosen.
    """

    window: int | None
    blocks: int | None
    recent: int
    question_over: Context

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Evict what has left the window."""
        window, length = self.window or self.budget, memory[0].video_length
        if length <= window:
            return {}
        return memory.keeping(torch.arange(length - window, length))

    def archive(self, memory: KVMemory, updates: Mapping[int, LayerUpdate], observe: Observer) -> None:
        """Every frame that is not in the archive yet."""
        last = self.archived.last[0]
        slots = {layer.index: newer(layer, last) for layer in memory}
        sizes = run_lengths(memory[0].origin.frame[0, 0, slots[0][0, 0]])
        self.archived.add(memory, slots, dict.fromkeys(slots, sizes))

    def scores(self, query: Float[Tensor, "H D"], index: Float[Tensor, "N H D"]) -> list[float]:
        """What each of a layer's frames is worth to a question: the plain dot product."""
        return similarity(query, index)

    def choose(self, scores: Sequence[list[float]], sizes: Sequence[list[int]], room: int) -> list[list[int]]:
        """Which frames each layer reads: ``blocks`` of them, or those that fit ``room`` tokens."""
        return [best(one, size, room, self.blocks) for one, size in zip(scores, sizes, strict=True)]

    def newest(self, memory: KVMemory) -> int:
        """How many of the newest tokens an answer reads as they are: ``recent``."""
        return min(self.recent, memory[0].video_length)

    def standing(self, layer: KVLayer, stop: int) -> list[Tokens]:
        """Pieces before slot ``stop`` that an answer reads besides, among the frames by their time: none."""
        return []

    def recall(self, call: Recall) -> None:
        """Put each layer's best frames where the window was, and the newest tokens behind them."""
        if not any(self.archived.sizes):
            return
        queries = question_queries(call, self.question_over)
        keep, beside, scores, sizes = {}, [], [], []
        tail = self.newest(call.memory)
        for layer, query in zip(call.memory, queries, strict=True):
            at, slots = layer.index, torch.arange(layer.length - tail, layer.length)
            ids = layer.origin.id[0, 0, slots.to(layer.keys.device)]
            # What stays in the window need not be read back.
            first = int(ids[ids >= 0].min()) if tail else max(self.archived.last[at], 0) + 1
            old = sum(last < first for last in self.archived.newest[at])
            keep[at] = slots[None, None]
            beside.append(self.standing(layer, layer.length - tail))
            sizes.append(self.archived.sizes[at][:old])
            scores.append(self.scores(query, self.archived.index(at)[0, :old]))
        room = self.budget - tail - sum(map(len, beside[0]))
        blocks = {}
        for at, numbers in enumerate(self.choose(scores, sizes, room)):
            found = self.archived.read(at, numbers, call.memory[at].keys.device) + beside[at]
            blocks[at] = sorted(found, key=lambda block: int(block.origin.table[2].min()))
        insert_blocks(call.memory, blocks, keep)
