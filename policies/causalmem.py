"""CausalMem: the tokens that an online basis of the stream explains worst, within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.config import setting
from hermes.policy import Buffering, StreamContext, with_background
from hermes.tokens import Chunk, TokenKind, split_frames


@dataclass
class CausalMem(Buffering):
    """Hold ``budget`` embeddings, the most novel of the stream, and read them at the question.

    Source: arXiv 2606.25658. An orthonormal basis of the stream begins as the first frame's ``first``
    leading directions. Each later frame moves every vector's usage to ``decay * usage + (1 - decay) * mean
    |c|`` over its tokens' coefficients, and gives the directions of the ``learn`` tokens with the largest
    residual; beyond ``basis`` vectors the least used go. Over budget, all tokens held are ranked by their
    residual to the basis as it is now; those dropped of a frame become its one background token, their mean.

    Differences: the paper does not say how many directions the first frame gives, a new vector's usage (here
    its mean coefficient in its frame), what becomes of an old background token (it is ranked like any other,
    and weighs as many tokens as it stands for) or of more frames than the budget has room for (those that
    are explained best go). The basis takes at most a quarter of the embedding's dimensions. Written
    timestamps are not held; positions are counted anew. Published: 12 000 tokens.
    """

    source: ClassVar[str] = "arXiv 2606.25658"

    budget: int = setting(4000, help="tokens held, and read by an answer", unit="tokens", ge=1)
    basis: int = setting(256, help="most vectors of the basis", ge=1)
    first: int = setting(8, help="vectors of the first frame", ge=1)
    learn: int = setting(8, help="vectors a later frame adds", ge=0)
    decay: float = setting(0.9, help="of a vector's usage, a frame", ge=0, le=1)
    dense: bool = setting(True, help="count positions anew, without the gaps of dropped tokens")

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with no frame seen."""
        super().start(context)
        # Orthonormal columns [hidden, k], and the usage of each.
        self.vectors: Tensor | None = None
        self.usage = torch.zeros(0)

    def reduce(self, chunk: Chunk) -> Chunk:
        """Learn from each frame and hold its most novel tokens; the decoder reads nothing yet."""
        pieces = list(self.pieces)
        for frame in split_frames(chunk, self.clock):
            visual = frame.tokens.kind == int(TokenKind.VISUAL)
            piece = frame.select(visual.nonzero().flatten().to(frame.embeds.device))
            self._learn(piece.embeds[0].float())
            pieces.append(piece)
            if sum(map(len, pieces)) > self.budget:
                pieces = self._pruned(pieces)
        self.pieces = tuple(pieces)
        return self.nothing(chunk)

    def _learn(self, x: Float[Tensor, "n hidden"]) -> None:
        most = min(self.basis, max(x.shape[1] // 4, 1))
        if self.vectors is None:
            directions = torch.linalg.svd(x, full_matrices=False).Vh[: min(self.first, most)]
            self.vectors = directions.T.contiguous()
            self.usage = (x @ self.vectors).abs().mean(0)
            return
        vectors = self.vectors.to(x.device)
        usage = self.decay * self.usage.to(x.device) + (1 - self.decay) * (x @ vectors).abs().mean(0)
        rest = x - x @ vectors @ vectors.T
        worst = rest[rest.norm(dim=1).topk(min(self.learn, len(x))).indices]
        fresh, size = torch.linalg.qr(worst.T)
        # Directions that the basis, or a larger residual, has already are noise.
        fresh = fresh[:, size.diagonal().abs() > 1e-4 * float(x.norm(dim=1).max())]
        vectors = torch.cat((vectors, fresh), dim=1)
        usage = torch.cat((usage, (x @ fresh).abs().mean(0)))
        used = usage.topk(min(most, len(usage))).indices.sort().values
        self.vectors, self.usage = vectors[:, used], usage[used]

    def _novelty(self, pieces: Sequence[Chunk]) -> Float[Tensor, " n"]:
        """Norm of each token's residual to the basis."""
        x = torch.cat([piece.embeds[0] for piece in pieces]).float()
        if self.vectors is None:
            rest = x
        else:
            vectors = self.vectors.to(x.device)
            rest = x - x @ vectors @ vectors.T
        size: Tensor = rest.norm(dim=1)
        return size

    def _pruned(self, pieces: Sequence[Chunk]) -> list[Chunk]:
        order = self._novelty(pieces).argsort(descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        ranks = rank.split([len(piece) for piece in pieces])
        last = torch.stack([one.max() for one in ranks])
        room = self.budget
        # Every frame that loses a token needs one more for its background.
        while room > 0 and (over := room + int((last >= room).sum()) - self.budget) > 0:
            room = max(room - over, 0)
        out = [with_background(piece, one < room) for piece, one in zip(pieces, ranks, strict=True)]
        if sum(map(len, out)) > self.budget:
            best = self._novelty(out).topk(self.budget).indices.sort().values
            out = [out[int(at)] for at in best]
        return out

    @property
    def resident_bytes(self) -> int:
        """Bytes of the tokens and of the basis."""
        own = () if self.vectors is None else (self.vectors, self.usage)
        return super().resident_bytes + sum(tensor.nbytes for tensor in own)

    def state(self) -> Mapping[str, Tensor]:
        """The tokens and the basis, for saving a stream."""
        own = {} if self.vectors is None else {"vectors": self.vectors, "usage": self.usage}
        return {**super().state(), **own}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold the tokens and the basis of :meth:`state` again."""
        held = dict(state)
        self.vectors, self.usage = held.pop("vectors", None), held.pop("usage", torch.zeros(0))
        super().restore(held)
