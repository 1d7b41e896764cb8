"""ReKV: a sliding window while the stream runs, and at a question each layer's best frames of an archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hermes.attention import Observer
from hermes.config import setting
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Eager, Reindexer
from hermes.policy import Context, FrameRetrieval, Store


@dataclass
class Rekv(FrameRetrieval):
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

    def archive(self, memory: KVMemory, updates: Mapping[int, LayerUpdate], observe: Observer) -> None:
        """Once the window is full: every frame that is not in the archive yet."""
        if updates:
            super().archive(memory, updates, observe)

    def scores(self, query: Float[Tensor, "H D"], index: Float[Tensor, "N H D"]) -> list[float]:
        """The dot product, its mean over ``chunk`` neighbours for each of them."""
        plain, out = super().scores(query, index), []
        for start in range(0, len(plain), self.chunk):
            group = plain[start : start + self.chunk]
            out += [sum(group) / len(group)] * len(group)
        return out
