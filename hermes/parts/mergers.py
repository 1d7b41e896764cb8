"""Mergers: what becomes of evicted tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from hermes.config import Part, setting
from hermes.memory import KVLayer, Mix


class Merger(Part, ABC):
    """Turns a layer's evicted tokens into new ones; ``slots`` of the budget are set aside for them.

    Source: after arXiv 2601.14724, App. F.
    """

    kind: ClassVar[str] = "merger"

    @property
    def slots(self) -> int:
        """Tokens of each layer's budget set aside for what this makes; none by default."""
        return 0

    @abstractmethod
    def merge(self, layer: KVLayer, evicted: Int[Tensor, "B R E"]) -> Mix | None:
        """The mix of the evicted slots (absolute indices, E >= 1), or None to drop them."""


@dataclass
class Drop(Merger):
    """Evicted tokens are gone.

    Source: arXiv 2601.14724 (sensory and working memory).
    """

    def merge(self, layer: KVLayer, evicted: Int[Tensor, "B R E"]) -> Mix | None:
        """No mix: the evicted tokens are dropped."""
        return None


@dataclass
class Summary(Merger):
    """One summary token for all tokens evicted in a step, at the end of the memory.

    Source: arXiv 2601.14724, Eq. 6, App. F: value = mean of the evicted values, key = mean of the evicted
    keys after each was rotated to the summary's position. ``weights: mass`` counts an old
    summary as the many tokens it stands for, where the paper counts it as one.
    """

    weights: Literal["mean", "mass"] = setting(
        "mean", help="weight of an evicted token: one, or what it stands for"
    )

    @property
    def slots(self) -> int:
        """The number of tokens that a merge adds: the summary."""
        return 1

    def merge(self, layer: KVLayer, evicted: Int[Tensor, "B R E"]) -> Mix | None:
        """A weighted mean of all evicted tokens."""
        weight = torch.ones(evicted.shape, device=evicted.device)
        if self.weights == "mass" and layer.tokens is not None:
            mass = layer.tokens.weight
            weight = mass.expand(-1, evicted.shape[1], -1).gather(-1, evicted).float()
        return Mix(evicted, weight / weight.sum(-1, keepdim=True))
