"""Position arithmetic: 1-D RoPE, M-RoPE and interleaved M-RoPE behind one small object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from hermes.kernels import Rotation, rotate


@dataclass(frozen=True)
class Rotary:
    """The rotary embedding of one decoder, reduced to what re-rotation needs.

    Pair ``c`` is channels ``(c, c + D/2)``, whatever the decoder's own layout: memories store keys with
    their channels in ``order``, and queries follow (:meth:`canonical`), so that nothing else knows layouts.
    :func:`hermes.backbone.read_rotary` finds them, so no family is special.

    Attributes:
        frequencies: angle per unit position of each pair; 0 where it is not rotated.
        axis: the position axis that drives each pair: always 0 for 1-D RoPE, sections for M-RoPE
            (Qwen2.5-VL), interleaved for Qwen3-VL.
        axes: position axes.
        scaling: the factor by which the decoder stretches what it rotates (YaRN), one number or one a pair:
            stored keys have it.
        order: the decoder's channels in the order of pairs ``[D]``; None where they are in it already.
        each: the rotary embedding of every managed layer, where they differ; this one is the first's.

    >>> rotary = Rotary(torch.tensor([1.0, 0.1]), torch.tensor([0, 0]), axes=1)
    >>> cos, sin = rotary.angles(torch.tensor([[0.0, 3.0]]))
    >>> tuple(cos.shape)
    (2, 2)
    """

    frequencies: Float[Tensor, " half"]
    axis: Int[Tensor, " half"]
    axes: int
    scaling: float | Float[Tensor, " half"] = 1.0
    order: Int[Tensor, " D"] | None = None
    each: tuple[Rotary, ...] = ()

    def layer(self, index: int) -> Rotary:
        """The rotary embedding of one managed layer."""
        return self.each[index] if self.each else self

    def canonical(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Keys or queries as the decoder gives them, with their channels in this object's order.

        Scores do not change under one order of both.
        """
        if self.order is None:
            return x
        return x.index_select(-1, self.order.to(x.device))

    def native(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """What :meth:`canonical` gave, in the decoder's own order again."""
        if self.order is None:
            return x
        return x.index_select(-1, self.order.argsort().to(x.device))

    def stretched(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of :meth:`angles` with the decoder's own factor."""
        if not isinstance(self.scaling, Tensor) and self.scaling == 1:
            return cos, sin
        factor = self.scaling.to(cos.device) if isinstance(self.scaling, Tensor) else self.scaling
        return cos * factor, sin * factor

    def unstretched(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Rotated keys or queries without that factor."""
        if not isinstance(self.scaling, Tensor):
            return x / self.scaling
        return x / torch.cat((self.scaling, self.scaling)).to(x.device, x.dtype)

    def angles(self, positions: Float[Tensor, "A *batch T"]) -> tuple[Tensor, Tensor]:
        """Cosine and sine, float32 ``[*batch, T, D/2]``, of positions ``[A, *batch, T]`` (or differences)."""
        return self.rotation(positions).angles()

    def rotation(self, shift: Float[Tensor, "A *batch T"]) -> Rotation:
        """The rotation by position differences ``[A, *batch, T]``, its angles not computed yet."""
        return Rotation(shift, self.frequencies, self.axis)

    def rotate(
        self, x: Float[Tensor, "B H T D"], shift: Float[Tensor, "A B R T"]
    ) -> Float[Tensor, "B H T D"]:
        """Rotate ``x`` by position differences; ``R`` is 1 (all heads alike) or the number of KV heads."""
        cos, sin = self.angles(shift)
        return rotate(x, cos, sin)


def expand_axes(positions: Num[Tensor, "*batch T"], axes: int) -> Num[Tensor, "A *batch T"]:
    """The same position on every axis, as text has it."""
    return positions.unsqueeze(0).expand(axes, *positions.shape)


def dense_ranks(positions: Num[Tensor, "*batch T"]) -> Num[Tensor, "*batch T"]:
    """Rank of each value among the distinct values of its row: the compaction of Sec. 3.3 on one axis.

    Source: arXiv 2601.14724, Sec. 3.3 and App. E.

    >>> dense_ranks(torch.tensor([[3.0, 7.0, 7.0, 20.0]]))
    tensor([[0., 1., 1., 2.]])
    """
    if positions.shape[-1] == 0:
        return positions
    ordered, order = positions.sort(dim=-1)
    new = torch.zeros_like(ordered)
    new[..., 1:] = (ordered[..., 1:] != ordered[..., :-1]).to(new.dtype)
    return torch.empty_like(positions).scatter_(-1, order, new.cumsum(-1))


def compacted(positions: Float[Tensor, "A *batch T"], prefix: int) -> Float[Tensor, "A *batch T"]:
    """Positions after re-indexing: the first ``prefix`` stay, the rest become dense behind them, per axis.

    Source: arXiv 2601.14724, Sec. 3.3. For 1-D positions the rank is the order in the cache; for M-RoPE it
    is the rank among the distinct values, separately for time, height and width.
    """
    head, rest = positions[..., :prefix], positions[..., prefix:]
    return torch.cat((head, dense_ranks(rest) + prefix), dim=-1)
