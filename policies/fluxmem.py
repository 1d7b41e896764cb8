"""FluxMem: recent frames whole, older ones without what repeats in time, old ones merged in space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hermes.config import setting
from hermes.policy import Bound, Buffering, StreamContext, merged, thinned
from hermes.tokens import Chunk, Provenance, split_frames


@dataclass
class FluxMem(Buffering):
    """Three tiers of frames as embeddings, all of which the decoder reads at each question.

    Source: arXiv 2603.02096. Leaving the ``short`` newest frames, a frame keeps the tokens that are far from
    the 3 x 3 tokens around their place in the frame before, or in the one after: at least Otsu's threshold of
    those distances (1 - largest cosine; 128 bins over 0 to 2, the median where there is but one), and never
    one more alike to the frame after than ``alike``. Leaving the next ``middle`` frames, neighbours in the
    grid (8 of them) at most Otsu's threshold of such distances apart merge; each group becomes its mean, in
    the place of the member nearest to it. Positions stay as they were, unless ``dense``.

    Differences: the first frame is judged by the one after it alone; the threshold is a bin's upper edge. It
    is made for at most 256 frames: what is held grows with the stream, and so does the time of an answer.
    """

    source: ClassVar[str] = "arXiv 2603.02096"
    bound: ClassVar[Bound] = "growing"

    budget: int = setting(4000, help="not used: frames are counted, not tokens", unit="tokens", ge=1)
    short: int = setting(8, help="newest frames, held whole", unit="frames", ge=1)
    middle: int = setting(64, help="frames before those, without repetitions", unit="frames", ge=0)
    alike: float = setting(0.8, help="cosine with the frame after above which a token goes; 1: none does")
    dense: bool = setting(False, help="count positions anew, without gaps: for streams beyond the range")

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with no frame held."""
        super().start(context)
        # The last frame that left the short tier, as it was; how many have; how many left the middle tier.
        self.gone: Chunk | None = None
        self.thinned = self.merged = 0

    def reduce(self, chunk: Chunk) -> Chunk:
        """Hold the frames, and let the oldest of each tier move on."""
        group = self.context.frames_per_group
        short, middle = max(self.short // group, 1), self.middle // group
        pieces = [*self.pieces, *split_frames(chunk, self.clock)]
        while len(pieces) - self.thinned > short:
            at = self.thinned
            before, self.gone = self.gone, pieces[at]
            pieces[at] = thinned(pieces[at], before, pieces[at + 1], self.alike)
            self.thinned += 1
        while self.thinned - self.merged > middle:
            pieces[self.merged] = merged(pieces[self.merged])
            self.merged += 1
        self.pieces = tuple(pieces)
        return self.nothing(chunk)

    def state(self) -> dict[str, Tensor]:
        """The pieces that are held, and where the tiers begin among them."""
        own = {"tiers": torch.tensor([self.thinned, self.merged])}
        if self.gone is not None:
            own |= {"gone.embeds": self.gone.embeds, "gone.table": self.gone.tokens.table}
        return {**super().state(), **own}

    def restore(self, state: dict[str, Tensor]) -> None:  # type: ignore[override]
        """Hold what :meth:`state` gave."""
        held = dict(state)
        self.thinned, self.merged = held.pop("tiers").tolist()
        embeds, table = held.pop("gone.embeds", None), held.pop("gone.table", None)
        super().restore(held)
        if embeds is not None and table is not None:
            self.gone = Chunk(embeds, torch.zeros(1, embeds.shape[1]), 0, Provenance(table), 1)

    @property
    def resident_bytes(self) -> int:
        """Of all tiers, and of the frame kept whole for comparison."""
        own = 0 if self.gone is None else self.gone.embeds.nbytes + self.gone.tokens.table.nbytes
        return super().resident_bytes + own
