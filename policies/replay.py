"""Replay: what each chunk, read a second time, looks back at, in one ranking for all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hermes.config import setting
from hermes.errors import SettingError
from hermes.parts import Replay, Selector, TopK
from hermes.policy import StreamContext, Tier, TieredPolicy


@dataclass
class ReplayPolicy(TieredPolicy):
    """Read every chunk a second time, and keep the newest tokens and those that reading ever looked at most.

    This project's. Right after a chunk was read its embeddings are read again; a token is worth the largest
    attention that a second reading pays it (:class:`hermes.parts.Replay`), kept for life, and all layers hold
    the same tokens (``policy.selector.rank=all``). ``policy.selector.recent`` or ``recent_share`` keeps the
    newest tokens whatever they are worth.

    Layers from ``first`` to ``last``, as shares of the depth, read back; the decoder is left after the last
    of them, and the other layers hold what these choose.

    Raises:
        SettingError: ``first`` is not before ``last``, or not all layers read back and each ranks alone.
    """

    needs_attention: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=Replay())}, help="one tier")
    selector: Selector = setting(TopK(rank="all", recent_share=0.15), help="which tokens stay")
    first: float = setting(0.0, help="share of the layers before the first that reads back", ge=0, lt=1)
    last: float = setting(1.0, help="share of the layers up to the last that reads back", gt=0, le=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first >= self.last:
            raise SettingError("last", self.last, f"above first, {self.first:g}")
        if (self.first > 0 or self.last < 1) and getattr(self.selector, "rank", None) != "all":
            hint = "Layers that do not read back need the ranking of those that do."
            raise SettingError("selector.rank", getattr(self.selector, "rank", None), "all", hint)

    def start(self, context: StreamContext) -> None:
        """Begin a stream; at least one layer reads back."""
        super().start(context)
        count = context.num_layers
        first = min(int(self.first * count), count - 1)
        if self.ledger is not None:
            self.ledger.limit(range(first, max(round(self.last * count), first + 1)))
