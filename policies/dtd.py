"""DTD, TimeChat-Online's differential token dropping: the decoder reads what has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hermes.attention import Observer
from hermes.config import setting
from hermes.errors import InputError
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Never, Reindexer
from hermes.policy import Bound, MemoryPolicy, StreamContext, cosine, frame_slots
from hermes.tokens import Chunk, TokenKind
from hermes.video import Frame


@dataclass
class Dtd(MemoryPolicy):
    """Drop tokens that look as they did in the frame before; keep all others, for ever.

    Source: arXiv 2504.17343 (TimeChat-Online). ``feature``: a token is dropped when its cosine with the same
    position of the previous frame, whole as it was seen, exceeds ``threshold``. ``pixel``: when its patch
    differs by less than ``threshold`` grey levels on average. ``keep``: instead, that share of every frame
    stays, the most changed. The first frame stays whole, and positions are as if nothing was dropped.

    Differences: the paper's model is trained with it, this works on any; the released threshold of features
    is 0.5 (0.25 in its demonstration), that of pixels is not known; ``keep`` counts in every frame, as later
    ones are not known. Written timestamps are never dropped. Without a limit: the budget is not used.
    """

    source: ClassVar[str] = "arXiv 2504.17343"
    bound: ClassVar[Bound] = "unbounded"
    lockstep: ClassVar[bool] = False

    budget: int = setting(4000, help="not used: what is read stays", unit="tokens", ge=1)
    mode: Literal["feature", "pixel"] = setting("feature", help="what is compared with the frame before")
    threshold: float | None = setting(
        None, help="cosine, or grey levels (0 to 255); null: 0.5, or 10", ge=-1, le=255
    )
    keep: float | None = setting(None, help="share of every frame that stays, instead", gt=0, le=1)
    reindex: Reindexer = setting(Never(), help="when positions become dense again")
    # Of the frame before: embeddings [n, hidden], or pixels [3, H, W].
    previous: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    # Pixels of the frames that wait to be encoded, by number.
    images: Mapping[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with no frame seen."""
        super().start(context)
        self.previous, self.images = None, {}

    def admit(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """All of them; pixels are noted where they are compared."""
        if self.mode == "pixel":
            pixels = {frame.index: torch.from_numpy(frame.image).movedim(-1, 0) for frame in frames}
            self.images = {**self.images, **pixels}
        return frames

    @property
    def needs_pixels(self) -> bool:
        """Whether pixels are compared."""
        return self.mode == "pixel"

    def reduce(self, chunk: Chunk) -> Chunk:
        """Only the tokens that have changed.

        Raises:
            InputError: pixels are compared, and the chunk came without frames.
        """
        keep = [(chunk.tokens.kind != int(TokenKind.VISUAL)).nonzero().flatten().to(chunk.embeds.device)]
        for slots in frame_slots(chunk):
            change = self._change(chunk, slots)
            if change is None:
                keep.append(slots)
            elif self.keep is not None:
                keep.append(slots[change.topk(max(round(self.keep * len(slots)), 1)).indices])
            elif self.mode == "feature":
                keep.append(slots[change >= -(0.5 if self.threshold is None else self.threshold)])
            else:
                keep.append(slots[change >= (10 if self.threshold is None else self.threshold)])
        self.images = {}
        return chunk.select(torch.cat(keep).sort().values)

    def _change(self, chunk: Chunk, slots: Int[Tensor, " n"]) -> Float[Tensor, " n"] | None:
        """How much each token of a frame differs from the frame before; None for the first one."""
        before = self.previous
        if self.mode == "feature":
            self.previous = now = chunk.embeds[0, slots]
            same = before is not None and before.shape == now.shape
            return -cosine(now, before.to(now.device)) if same and before is not None else None
        number = int(chunk.tokens.frame[slots[0]])
        if number not in self.images:
            raise InputError("policy.mode=pixel compares frames: feed frames, not chunks")
        self.previous = now = self.images[number]
        if before is None or before.shape != now.shape:
            return None
        size = tuple(int(column[slots.cpu()].max()) + 1 for column in (chunk.tokens.row, chunk.tokens.col))
        difference = (now.float() - before.float()).abs().mean(0, keepdim=True)
        return F.adaptive_avg_pool2d(difference, size).flatten().to(slots.device)  # type: ignore[arg-type]

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Keep every token: ``reduce`` has dropped what repeats."""
        return {}

    @property
    def resident_bytes(self) -> int:
        """Bytes of the frame before."""
        return 0 if self.previous is None else self.previous.nbytes

    def state(self) -> Mapping[str, Tensor]:
        """The frame before, which the next one is compared with."""
        return {} if self.previous is None else {"previous": self.previous}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold the frame of :meth:`state` again."""
        self.previous = state.get("previous")
