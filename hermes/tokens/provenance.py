"""Where every cached token comes from: one integer table per layer, gathered with the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class TokenKind(IntEnum):
    """What a cached token is."""

    PREFIX = 0
    VISUAL = 1
    TIMESTAMP = 2
    SUMMARY = 3
    TEXT = 4


_COLUMNS = ("id", "frame", "time_us", "row", "col", "kind", "protected", "weight")
_INDEX = {name: i for i, name in enumerate(_COLUMNS)}


@dataclass(frozen=True)
class Provenance:
    """Origin of each token, as an int64 table ``[8, *batch, T]`` with one row per attribute.

    One table costs one gather when tokens are evicted.

    Attributes are read as tensors ``[*batch, T]``: ``id`` (unique in the stream, the same in every layer),
    ``frame`` (index of the sampled frame, -1 for text), ``time`` (seconds), ``row`` and ``col`` (patch in
    the frame, -1 for text), ``kind`` (:class:`TokenKind`), ``protected`` (never evicted by a selector) and
    ``weight`` (how many written tokens it stands for).

    >>> frame = Provenance.visual(first_id=0, frame=3, time=1.5, rows=1, cols=2)
    >>> frame.col.tolist(), frame.time.tolist()
    ([0, 1], [1.5, 1.5])
    """

    table: Int[Tensor, "8 *batch T"]

    @property
    def id(self) -> Int[Tensor, "*batch T"]:
        """Unique in the stream, the same in every layer."""
        return self.table[0]

    @property
    def frame(self) -> Int[Tensor, "*batch T"]:
        """Index of the sampled frame, -1 for text."""
        return self.table[1]

    @property
    def time(self) -> Tensor:
        """Seconds on the stream's clock, float64 ``[*batch, T]``."""
        return self.table[2].double() / 1e6

    @property
    def row(self) -> Int[Tensor, "*batch T"]:
        """Row of the patch in the frame, -1 for text."""
        return self.table[3]

    @property
    def col(self) -> Int[Tensor, "*batch T"]:
        """Column of the patch in the frame, -1 for text."""
        return self.table[4]

    @property
    def kind(self) -> Int[Tensor, "*batch T"]:
        """What the token is, a :class:`TokenKind`."""
        return self.table[5]

    @property
    def protected(self) -> Bool[Tensor, "*batch T"]:
        """Whether no selector may evict it."""
        return self.table[6].bool()

    @property
    def weight(self) -> Int[Tensor, "*batch T"]:
        """How many written tokens it stands for."""
        return self.table[7]

    def __len__(self) -> int:
        return self.table.shape[-1]

    def __repr__(self) -> str:
        return f"Provenance({list(self.table.shape)})"

    def to(self, device: torch.device | str) -> Provenance:
        """The same table on another device."""
        return Provenance(self.table.to(device))

    def select(self, index: Int[Tensor, " K"]) -> Provenance:
        """The tokens at ``index`` (1-D, along the last axis)."""
        return Provenance(self.table.index_select(-1, index))

    @staticmethod
    def cat(parts: Sequence[Provenance]) -> Provenance:
        """The tokens of all parts, in order."""
        return Provenance(torch.cat([part.table for part in parts], dim=-1))

    @staticmethod
    def of(length: int, **columns: int | Tensor) -> Provenance:
        """A table of ``length`` tokens; columns not named are -1 (``protected`` 0, ``weight`` 1)."""
        table = torch.full((len(_COLUMNS), length), -1, dtype=torch.int64)
        table[_INDEX["protected"]] = 0
        table[_INDEX["weight"]] = 1
        for name, value in columns.items():
            table[_INDEX[name]] = value
        return Provenance(table)

    @staticmethod
    def text(
        length: int,
        *,
        first_id: int = 0,
        kind: TokenKind = TokenKind.TEXT,
        frame: int = -1,
        time: float = 0.0,
    ) -> Provenance:
        """Text tokens: the prefix, timestamps or a question."""
        ids = torch.arange(first_id, first_id + length)
        return Provenance.of(length, id=ids, kind=int(kind), frame=frame, time_us=round(time * 1e6))

    @staticmethod
    def visual(*, first_id: int, frame: int, time: float, rows: int, cols: int) -> Provenance:
        """The ``rows * cols`` tokens of one frame (or frame pair), in raster order."""
        length = rows * cols
        patch = torch.arange(length)
        return Provenance.of(
            length,
            id=first_id + patch,
            frame=frame,
            time_us=round(time * 1e6),
            row=patch // cols,
            col=patch % cols,
            kind=int(TokenKind.VISUAL),
        )
