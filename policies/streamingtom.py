"""StreamingTOM: fewer tokens a frame before the decoder, a 4-bit store of all of them, retrieval by frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.attention import Observer
from hermes.config import setting
from hermes.errors import InputError
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Lazy, Reindexer
from hermes.policy import (
    Context,
    FrameRetrieval,
    Store,
    StreamContext,
    frame_slots,
    similarity,
    temporal_reduction,
)
from hermes.tokens import Chunk, TokenKind


@dataclass
class StreamingTom(FrameRetrieval):
    """Causal temporal reduction (``ctr``), a quantised store (``store``), two-pass retrieval (``retrieve``).

    Source: arXiv 2510.18269. Of a frame ``share`` of the tokens stay (there 50 of 196). Tokens whose cosine
    with the same position of the previous frame exceeds ``static`` are static, the others dynamic; the room
    is shared out in proportion to the static ones, the dynamic ones with the most attention of the vision
    encoder stay, and the static ones are merged around density peaks. Every frame is archived in 4 bits per
    channel. The bare question's mean queries rank frames by cosine, each layer for itself.

    Differences: the window that encodes is held exactly, not read back from 4 bits; positions are true ones
    (the release's saturate; ``reindex: eager`` is near to that), and contiguous in an answer. The paper gives
    neither ``neighbours`` and ``beta`` nor the window, nor which layer's attention is read: the last.
    ``ctr=false``, ``store.precision=exact`` and ``retrieve=false`` each leave one part out.
    """

    source: ClassVar[str] = "arXiv 2510.18269"
    needs_attention: ClassVar[bool] = True

    budget: int = setting(4000, help="video tokens a layer holds, and an answer reads", unit="tokens", ge=1)
    ctr: bool = setting(True, help="reduce frames before the decoder")
    share: float = setting(50 / 196, help="share of a frame's tokens that stay", gt=0, le=1)
    static: float = setting(0.9, help="cosine above which a token is static")
    neighbours: int = setting(5, help="nearest tokens of the density (the paper does not say)", ge=1)
    beta: float = setting(0.5, help="weight of a peak against the mean of its tokens (nor here)", ge=0, le=1)
    saliency: Literal["attention", "norm"] = setting(
        "attention", help="of the vision encoder; norm: of the embedding, where there is none"
    )
    retrieve: bool = setting(True, help="archive frames and retrieve them; false: the window answers")
    blocks: int | None = setting(None, help="frames a layer retrieves; null: those that fit the budget", ge=1)
    per_head: bool = setting(False, help="the mean of a cosine per head, instead of one over all heads")
    window: int | None = setting(None, help="of the sliding window; null: the budget", unit="tokens", ge=1)
    recent: int = setting(0, help="newest tokens an answer reads too, of the budget", unit="tokens", ge=0)
    question_over: Context = setting("prefix", help="what the question sees when its queries are taken")
    store: Store = setting(Store(precision="int4", group=None, values="tokens"), help="of the archive")
    reindex: Reindexer = setting(Lazy(), help="when positions become dense again")
    # The last frame's tokens before reduction, [n, hidden].
    previous: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with no frame seen."""
        super().start(context)
        self.previous = None

    @property
    def needs_saliency(self) -> bool:
        """For the dynamic tokens."""
        return self.ctr and self.saliency == "attention"

    def reduce(self, chunk: Chunk) -> Chunk:
        """Merge and drop tokens, frame by frame.

        Raises:
            InputError: a chunk without the saliency that is wanted.
        """
        if not self.ctr:
            return chunk
        if self.needs_saliency and chunk.saliency is None:
            raise InputError("this chunk has no saliency: feed frames, or set policy.saliency=norm")
        worth = chunk.embeds[0].float().norm(dim=-1) if chunk.saliency is None else chunk.saliency
        levels = [level.clone() for level in (chunk.embeds, *chunk.deepstack)]
        keep = [(chunk.tokens.kind != int(TokenKind.VISUAL)).nonzero().flatten().to(worth.device)]
        for slots in frame_slots(chunk):
            x = chunk.embeds[0, slots].float()
            room = max(round(self.share * len(x)), 1)
            kept, weights = temporal_reduction(
                x, self.previous, worth[slots], room, self.static, self.neighbours, self.beta
            )
            for level in levels:
                mixed = weights.to(level.device) @ level[0, slots].float()
                level[0, slots[kept]] = mixed.to(level.dtype)
            keep.append(slots[kept])
            self.previous = x
        whole = replace(chunk, embeds=levels[0], deepstack=tuple(levels[1:]))
        return whole.select(torch.cat(keep).sort().values)

    def archive(self, memory: KVMemory, updates: Mapping[int, LayerUpdate], observe: Observer) -> None:
        """Every frame, as soon as it is in the memory."""
        if self.retrieve:
            super().archive(memory, updates, observe)

    def scores(self, query: Float[Tensor, "H D"], index: Float[Tensor, "N H D"]) -> list[float]:
        """Cosine of the mean query and the mean key."""
        return similarity(query, index, "cosine", self.per_head)

    @property
    def resident_bytes(self) -> int:
        """Of the archive's index, and of the last frame."""
        return super().resident_bytes + (0 if self.previous is None else self.previous.nbytes)

    def state(self) -> Mapping[str, Tensor]:
        """The archive, and the last frame."""
        return {**super().state(), **({} if self.previous is None else {"previous": self.previous})}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        super().restore(state)
        self.previous = state.get("previous")
