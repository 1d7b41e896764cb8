"""Scorers that read keys and values alone: no attention is observed."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hermes.parts.scorers import LayerContext, Scorer


def _rows(norm: Float[Tensor, "B H V"], context: LayerContext) -> Float[Tensor, "B R V"]:
    per_head = context.per_head or context.layer.rows > 1
    return norm if per_head else norm.mean(1, keepdim=True)


@dataclass
class KeyNorm(Scorer):
    """Small keys are worth keeping: minus the L2 norm of the key.

    Source: arXiv 2406.11430, Sec. 3. The norm does not depend on the position.
    """

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """Minus the norm of each key, per KV head or as the mean over heads."""
        return _rows(-context.layer.video_keys().float().norm(dim=-1), context)


@dataclass
class ValueNorm(Scorer):
    """Large values are worth keeping: the L2 norm of the value.

    Source: the value norm (VaN) of arXiv 2506.15745 (InfiniPot-V), Sec. 3, alone and without pooling.
    """

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """The norm of each value, per KV head or as the mean over heads."""
        return _rows(context.layer.video_values().float().norm(dim=-1), context)
