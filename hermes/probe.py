"""Attention probes: what to observe, at which layers, how to accumulate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from hermes.attention import AttentionView
from hermes.config import Part, setting


class AttentionProbe(Part, ABC):
    """Watches attention as it happens; subclass it and implement :meth:`observe`.

    Source: this project. A probe is handed to ``session.feed``, ``session.ask`` or
    :func:`hermes.attention.attending`; registered under the entry point group ``hermes.probes`` or named by
    dotted path. It must not change the tensors it is shown.
    """

    kind: ClassVar[str] = "probe"

    def layers(self, num_layers: int) -> Iterable[int]:
        """Layers to watch; all by default. The others pay nothing."""
        return range(num_layers)

    @abstractmethod
    def observe(self, view: AttentionView) -> None:
        """See one layer's attention and accumulate."""

    def result(self) -> Any:
        """What was accumulated."""
        return None


@dataclass
class AttentionMass(AttentionProbe):
    """Mean attention each held token received, summed over calls, per layer ``[B, R, T]``.

    Source: arXiv 2601.14724, Sec. 2 (mean over heads and query tokens).

    >>> AttentionMass(only=[0, 2]).layers(10)
    [0, 2]
    """

    only: list[int] | None = setting(None, help="layers to watch; null for all")
    per_head: bool = setting(False, help="one row per KV head instead of the mean over heads")
    _mass: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def layers(self, num_layers: int) -> Iterable[int]:
        return range(num_layers) if self.only is None else self.only

    def observe(self, view: AttentionView) -> None:
        mass = view.mass(per_head=self.per_head)
        held = self._mass.get(view.layer)
        # A memory that changed between calls starts the sum afresh.
        self._mass[view.layer] = mass if held is None or held.shape != mass.shape else held + mass

    def result(self) -> dict[int, Tensor]:
        return dict(self._mass)
