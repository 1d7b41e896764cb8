"""What the layers of a decoder remember: everything, a window, or a state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

__all__ = ["LayerKind", "LayerSpec", "describe_layers"]

LayerKind = Literal["managed", "window", "recurrent", "shared"]


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
    """
    names = [spec.kind if spec.window is None else f"{spec.kind} of {spec.window}" for spec in specs]
    sizes = range(1, len(names) + 1)
    period = next((size for size in sizes if names == names[:size] * (len(names) // size)), 1)
    times = len(names) // period
    if period == 1:
        return f"{times} {names[0]}" if names else "none"
    runs = ", ".join(f"{len(list(run))} {name}" for name, run in groupby(names[:period]))
    return f"{times} x ({runs})" if times > 1 else runs
