"""ReKV: a sliding window while the stream runs, and at a question each layer's best frames of an archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from hermes.archive import Archiving, Store, put_back
from hermes.config import setting
from hermes.memory import KVMemory, LayerUpdate
from hermes.observe import Observer
from hermes.parts import Eager, Reindexer
from hermes.policy import Recall
from hermes.retrieval import Context, best, newer, question_queries, run_lengths, similarity


@dataclass
class Rekv(Archiving):
    """Encode with a sliding window, archive every frame, and answer from the frames a layer retrieves.

    Source: arXiv 2503.00540. Until the window is first full nothing is archived and questions read the
    window; from then on every frame is archived, the newest too, and an answer reads the prefix and the
    frames retrieved, in time order at contiguous positions: no recent window unless ``recent`` says so. A
    frame's index is its mean un-rotated key; its score the plain dot product with the question's mean query.
    Published: a window of 15 000 tokens, 64 frames of 196 tokens.

    Differences from the paper: the frames of a chunk see each other before the window slides; the question's
    queries come from a pass of their own over ``question_over``; a budget of tokens unless ``blocks`` gives
    the number of frames.
    """

    source: ClassVar[str] = "arXiv 2503.00540"
    needs_attention: ClassVar[bool] = True

    budget: int = setting(4000, help="video tokens a layer holds, and an answer reads", unit="tokens", ge=1)
    window: int | None = setting(None, help="of the sliding window; null: the budget", unit="tokens", ge=1)
    blocks: int | None = setting(None, help="frames a layer retrieves; null: those that fit the budget", ge=1)
    chunk: int = setting(1, help="neighbouring frames that share their mean score", unit="frames", ge=1)
    recent: int = setting(0, help="newest tokens an answer reads too, of the budget", unit="tokens", ge=0)
    question_over: Context = setting("memory", help="what the question sees when its queries are taken")
    store: Store = setting(Store(), help="of the archive")
    reindex: Reindexer = setting(Eager(), help="when positions become dense again")

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Let the window slide."""
        window, length = self.window or self.budget, memory[0].video_length
        if length <= window:
            return {}
        return {layer.index: layer.keeping(torch.arange(length - window, length)) for layer in memory}

    def archive(self, memory: KVMemory, updates: Mapping[int, LayerUpdate]) -> None:
        """Once the window is full: every frame that is not in the archive yet."""
        if updates:
            last = max(self.archived.newest[0], default=-1)
            slots = {layer.index: newer(layer, last) for layer in memory}
            sizes = run_lengths(memory[0].held.frame[0, 0, slots[0][0, 0]])
            self.archived.add(memory, slots, dict.fromkeys(slots, sizes))

    def recall(self, call: Recall) -> None:
        """Put each layer's best frames where the window was."""
        if not self.archived.sizes[0]:
            return
        queries = question_queries(call, self.question_over)
        blocks, keep = {}, {}
        for layer in call.memory:
            at, length = layer.index, layer.length
            tail = torch.arange(length - min(self.recent, layer.video_length), length)
            # What stays in the window need not be read back.
            first = int(layer.held.id[0, 0, tail[0]]) if len(tail) else max(self.archived.newest[at]) + 1
            sizes = [
                size
                for size, last in zip(self.archived.sizes[at], self.archived.newest[at], strict=True)
                if last < first
            ]
            scores = similarity(queries[at], self.archived.index(at)[0, : len(sizes)])
            chosen = best(_shared(scores, self.chunk), sizes, self.budget - len(tail), self.blocks)
            blocks[at] = self.archived.read(at, chosen, layer.keys.device)
            keep[at] = tail[None, None]
        put_back(call.memory, blocks, keep)


def _shared(scores: list[float], chunk: int) -> list[float]:
    """Every ``chunk`` neighbours' mean score, for each of them."""
    out: list[float] = []
    for start in range(0, len(scores), chunk):
        group = scores[start : start + chunk]
        out += [sum(group) / len(group)] * len(group)
    return out
