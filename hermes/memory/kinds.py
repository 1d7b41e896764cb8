"""What the layers of a decoder remember: everything, a window, or a state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

__all__ = ["LayerKind", "LayerSpec", "describe_layers"]

LayerKind = Literal["managed", "window", "recurrent", "shared"]


# A pattern longer than that is not spelt out.
_MOST_RUNS = 6


@dataclass(frozen=True)
class LayerSpec:
    """What one decoder layer remembers.

    Attributes:
        kind: ``managed``: full attention, whose tokens a policy keeps or evicts; ``window``: attention to
            the last tokens only; ``recurrent``: states of fixed size (gated delta-net, convolution);
            ``shared``: full or window attention over the keys of an earlier layer.
        window: tokens that a window layer sees, the querying one included; None for other kinds.
        source: the decoder layer whose keys a shared layer reads; None for other kinds.
        states: pairs of states that a recurrent layer holds.
    """

    kind: LayerKind
    window: int | None = None
    source: int | None = None
    states: int = 1


def describe_layers(specs: Sequence[LayerSpec]) -> str:
    """The kinds of layers in words, in their order, a pattern that repeats said once.

    >>> describe_layers([LayerSpec("recurrent"), LayerSpec("recurrent"), LayerSpec("managed")] * 8)
    '8 x (2 recurrent, 1 managed)'
    >>> describe_layers([LayerSpec("managed")] * 28)
    '28 managed'
    >>> describe_layers([LayerSpec("window", window=512), LayerSpec("managed")])
    '1 window of 512, 1 managed'
    >>> describe_layers(([LayerSpec("recurrent"), LayerSpec("managed")] * 5)[:-1])
    '4 x (1 recurrent, 1 managed), 1 recurrent'
    """
    names = [spec.kind if spec.window is None else f"{spec.kind} of {spec.window}" for spec in specs]
    # The shortest pattern that repeats, the last time perhaps in part.
    period = next(size for size in range(1, len(names) + 2) if names[size:] == names[:-size])
    times = len(names) // max(period, 1)
    if times > 1 and period > 1:
        rest = f", {_runs(names[period * times :])}" if len(names) % period else ""
        return f"{times} x ({_runs(names[:period])}){rest}"
    return _runs(names) or "none"


def _runs(names: Sequence[str]) -> str:
    runs = [f"{len(list(run))} {name}" for name, run in groupby(names)]
    if len(runs) > _MOST_RUNS:
        runs = [f"{names.count(name)} {name}" for name in dict.fromkeys(names)] + ["in turn"]
    return ", ".join(runs)
