"""What an attention probe may see of one layer's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.kernels import attention_received
from hermes.memory import KVLayer
from hermes.tokens import Provenance


@dataclass(frozen=True)
class AttentionView:
    """One layer's attention as a probe sees it: queries over the memory and over themselves.

    Attributes:
        index: of the layer.
        query: ``[B, Hq, Q, D]``, rotated into the layer's own frame.
        memory: keys held before these queries, ``[B, Hkv, T, D]``.
        own: the keys that follow, ``[B, Hkv, P, D]``: of tokens not yet committed (a question's, while its
            answer is generated), then of the queries themselves; query i sees the first P - Q + i + 1.
        layer: the memory's layer: positions and provenance of the T tokens, prefix length. It lives on: read
            it now.
        scaling: multiplies the logits.
        chunk: where the queries' tokens come from, table ``[8, Q]`` or ``[8, B, Q]`` on the CPU, if a chunk
            of the stream is being read; None for texts.
        positions: of the queries, from the clock at which they start, ``[A, Q]``, if a chunk is being read.
    """

    index: int
    query: Float[Tensor, "B Hq Q D"]
    memory: Float[Tensor, "B Hkv T D"]
    own: Float[Tensor, "B Hkv P D"]
    layer: KVLayer
    scaling: float
    chunk: Provenance | None = None
    positions: Float[Tensor, "A Q"] | None = None

    @property
    def tokens(self) -> Provenance:
        """Provenance of the T held tokens, table ``[8, B, R, T]``; of none where the layer holds none."""
        if not self.layer.length:
            return Provenance(Provenance.of(0).table[:, None, None].expand(-1, self.query.shape[0], 1, 0))
        return self.layer.origin

    def mass(
        self, *, per_head: bool = False, pool: Literal["mean", "max"] = "mean"
    ) -> Float[Tensor, "B R T"]:
        """Mean or largest attention to each held token (see :func:`hermes.kernels.attention_mass`)."""
        return self.layer.kernels.attention_mass(
            self.query, self.memory, self.own, scaling=self.scaling, per_head=per_head, pool=pool
        )

    def received(self, *, last: int | None = None, per_head: bool = False) -> Float[Tensor, "B R T_P"]:
        """Mean attention to each held token and each that follows, from all or the last queries.

        See :func:`hermes.kernels.attention_received`.
        """
        keys = torch.cat((self.memory, self.own), dim=2)
        return attention_received(self.query, keys, scaling=self.scaling, last=last, per_head=per_head)
