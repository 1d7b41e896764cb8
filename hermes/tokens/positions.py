"""Position arithmetic: 1-D RoPE, M-RoPE and interleaved M-RoPE behind one small object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from hermes.errors import UnsupportedModelError
from hermes.kernels import Rotation, rotate

# Frequencies that change with the sequence length would make stored keys wrong as the stream grows.
_UNSUPPORTED_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True)
class Rotary:
    """The rotary embedding of one decoder, reduced to what re-rotation needs.

    ``frequencies[c]`` is the angle per unit position of channel pair ``c`` and
    ``axis[c]`` the position axis that drives it: always 0 for 1-D RoPE, sections for M-RoPE (Qwen2.5-VL),
    interleaved for Qwen3-VL. The map is read off the decoder's own module, so no family is special.
    ``scaling`` is the factor by which the decoder stretches what it rotates (YaRN): stored keys have it.

    >>> rotary = Rotary(torch.tensor([1.0, 0.1]), torch.tensor([0, 0]), axes=1)
    >>> cos, sin = rotary.angles(torch.tensor([[0.0, 3.0]]))
    >>> tuple(cos.shape)
    (2, 2)
    """

    frequencies: Float[Tensor, " half"]
    axis: Int[Tensor, " half"]
    axes: int
    scaling: float = 1.0

    @staticmethod
    def of(decoder: nn.Module, axes: int) -> Rotary:
        """Read frequencies and axes from ``decoder.rotary_emb``.

        Raises:
            UnsupportedModelError: the decoder uses ``dynamic`` or ``longrope`` scaling.
        """
        module: Any = decoder.rotary_emb
        rope_type = str(getattr(module, "rope_type", "default"))
        if rope_type in _UNSUPPORTED_ROPE:
            raise UnsupportedModelError(
                f"this checkpoint uses {rope_type!r} RoPE scaling, whose frequencies change with the length: "
                "keys kept from an endless stream would be rotated wrongly. Use a checkpoint with 'default', "
                "'linear' or 'yarn' RoPE."
            )
        frequencies: Tensor = module.inv_freq.detach().float()
        axis = torch.zeros_like(frequencies, dtype=torch.int64)
        probe = frequencies.new_zeros(1, 1, 1)
        for a in range(1, axes):
            # A unit step on axis a moves just the channels of that axis.
            step = frequencies.new_zeros(axes, 1, 1)
            step[a] = 1.0
            _, sin = module(probe, step)
            axis[sin[0, 0, : frequencies.numel()] != 0] = a
        return Rotary(frequencies, axis, axes, float(getattr(module, "attention_scaling", 1.0)))

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
