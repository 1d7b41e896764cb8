"""Smoothing of scores across layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hermes.config import Part, setting
from hermes.memory import KVLayer

# Layers may differ in R and V.
Scores = Sequence["Float[Tensor, 'B _R _V'] | None"]


class Smoother(Part, ABC):
    """Lets the scores of a layer hear those of the layer above.

    Source: after arXiv 2601.14724, Sec. 3.2.
    """

    kind: ClassVar[str] = "smoother"

    @abstractmethod
    def needs(self, wanted: Sequence[bool], weights: Sequence[float]) -> list[bool]:
        """Which layers must be scored for the ``wanted`` ones to be smoothed."""

    @abstractmethod
    def smooth(
        self, scores: Scores, weights: Sequence[float], layers: Sequence[KVLayer]
    ) -> list[Tensor | None]:
        """Smoothed scores, one per layer; None stays None."""


@dataclass
class Chain(Smoother):
    """``S~_l = (1 - lam_l) S_l + lam_l S_{l+1}``; the last layer stays as it is.

    Source: arXiv 2601.14724, Sec. 3.2, App. C. The paper's formula reads the raw scores of the layer above;
    the release goes from the deepest layer down and reads the smoothed ones (``recursive``). Both match
    tokens by cache index, interpolating where the lengths differ. After the first eviction an index means
    different tokens in different layers: ``align: identity`` matches by token, and leaves a
    token alone that the layer above does not hold.
    """

    align: Literal["index", "identity"] = setting(
        "index", help="match tokens of two layers by slot or by identity"
    )
    recursive: bool = setting(False, help="read the smoothed scores of the layer above, as the release does")

    def needs(self, wanted: Sequence[bool], weights: Sequence[float]) -> list[bool]:
        """The wanted layers and those above that they read."""
        needed = list(wanted)
        for index in range(len(wanted) - 1):
            # Recursively a layer may lean on every layer above it, as far as the weights are not zero.
            chain = index
            while wanted[index] and chain + 1 < len(wanted) and weights[chain]:
                chain += 1
                needed[chain] = True
                if not self.recursive:
                    break
        return needed

    def smooth(
        self, scores: Scores, weights: Sequence[float], layers: Sequence[KVLayer]
    ) -> list[Tensor | None]:
        """Scores blended with those of the layer above, by the layer's weight."""
        out = list(scores)
        source = out if self.recursive else scores
        for index in range(len(scores) - 2, -1, -1):
            own, above, weight = scores[index], source[index + 1], weights[index]
            if own is None or above is None or not weight:
                continue
            above = above.to(own.device)
            if self.align == "identity":
                above = _by_identity(own, above, layers[index], layers[index + 1])
            elif above.shape[-1] != own.shape[-1]:
                above = F.interpolate(above, size=own.shape[-1], mode="linear")
            out[index] = (1 - weight) * own + weight * above
        return out

    def partners(self, layers: Sequence[KVLayer]) -> Int[Tensor, "L B R V"] | None:
        """For layers that hold equally many tokens: where each token is in the layer above.

        Returns:
            slots after the prefix, -1 where that layer does not hold it; None where tokens match by slot.
        """
        if self.align == "index":
            return None
        ids = torch.stack([layer.video.id for layer in layers])
        known, order = ids[1:].sort(dim=-1)
        at = torch.searchsorted(known, ids[:-1].contiguous()).clamp_(max=max(ids.shape[-1] - 1, 0))
        slots = torch.where(known.gather(-1, at) == ids[:-1], order.gather(-1, at), -1)
        return torch.cat((slots, torch.full_like(ids[:1], -1)))


def _by_identity(own: Tensor, above: Tensor, layer: KVLayer, upper: KVLayer) -> Tensor:
    """Scores of the layer above, put at the slots of the same tokens; own scores where it has none."""
    rows = max(own.shape[1], above.shape[1], layer.rows, upper.rows)
    own, above = own.expand(-1, rows, -1), above.expand(-1, rows, -1)
    ids = layer.video.id.expand(-1, rows, -1).contiguous()
    known, order = upper.video.id.expand(-1, rows, -1).sort(dim=-1)
    if known.shape[-1] == 0:
        return own
    at = torch.searchsorted(known, ids).clamp_(max=known.shape[-1] - 1)
    found = above.gather(-1, order.gather(-1, at))
    return torch.where(known.gather(-1, at) == ids, found, own)
