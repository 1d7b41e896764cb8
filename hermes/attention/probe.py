"""Attention probes: what to observe, at which layers, how to accumulate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hermes.attention.view import AttentionView
from hermes.config import Part, setting


class AttentionProbe(Part, ABC):
    """Watches attention as it happens; subclass it and implement :meth:`observe`.

    A probe is handed to ``session.ask``, to the session, or to a
    ``with probing(session, probe)`` block; registered under the entry point group ``hermes.probes`` or
    named by dotted path. It must not change the tensors it is shown. The prefix is read before anything is
    held, and is not shown.
    """

    kind: ClassVar[str] = "probe"

    def layers(self, num_layers: int) -> Iterable[int]:
        """Layers to watch; all by default. The others pay nothing."""
        return range(num_layers)

    @abstractmethod
    def observe(self, view: AttentionView) -> None:
        """See one layer's attention and accumulate."""

    def result(self) -> Any:
        """What was accumulated so far; None by default."""
        return None


@dataclass
class AttentionMass(AttentionProbe):
    """Mean attention each held token received, over heads and query tokens, per layer ``[B, R, T]``.

    Source: arXiv 2601.14724, Sec. 2. Every query token counts alike, over all calls since the layer last
    held the same tokens: a layer whose tokens change starts afresh.

    >>> AttentionMass(only=[0, 2]).layers(10)
    [0, 2]
    """

    only: list[int] | None = setting(None, help="layers to watch; null for all")
    per_head: bool = setting(False, help="one row per KV head instead of the mean over heads")
    # Per layer: ids of the held tokens, summed mass, query tokens seen.
    _seen: dict[int, tuple[Tensor, Tensor, int]] = field(default_factory=dict, init=False, repr=False)

    def layers(self, num_layers: int) -> Iterable[int]:
        """The layers of ``only``, or all of them."""
        return range(num_layers) if self.only is None else self.only

    def observe(self, view: AttentionView) -> None:
        """Add one call's attention to the layer's sum."""
        if not view.layer.length:
            return
        queries = view.query.shape[2]
        mass = view.mass(per_head=self.per_head) * queries
        ids, held = view.tokens.id, self._seen.get(view.index)
        if held is not None and torch.equal(held[0], ids):
            mass, queries = held[1] + mass, held[2] + queries
        self._seen[view.index] = (ids, mass, queries)

    def result(self) -> dict[int, Tensor]:
        """The mass so far by layer index, float32 ``[B, R, T]``."""
        return {layer: mass / queries for layer, (_, mass, queries) in self._seen.items()}


class Together(AttentionProbe):
    """Several probes at once, each on the layers it asks for."""

    def __init__(self, probes: Sequence[AttentionProbe]) -> None:
        self.probes = probes
        self._watched: list[frozenset[int]] = []

    def layers(self, num_layers: int) -> Iterable[int]:
        """Every layer that one of the probes asks for."""
        self._watched = [frozenset(probe.layers(num_layers)) for probe in self.probes]
        return frozenset().union(*self._watched)

    def observe(self, view: AttentionView) -> None:
        """Show the layer to the probes that asked for it."""
        for probe, layers in zip(self.probes, self._watched, strict=True):
            if view.index in layers:
                probe.observe(view)


def together(*probes: AttentionProbe | None) -> AttentionProbe | None:
    """The probes that there are, as one; None where there is none."""
    given = [probe for probe in probes if probe is not None]
    return Together(given) if len(given) > 1 else next(iter(given), None)
