"""Integers for keys and values: asymmetric codes of 2, 4 or 8 bits, a minimum and a scale for each group."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Along = Literal["tokens", "channels"]


class Codes(NamedTuple):
    """A quantised tensor.

    ``codes`` holds 8 / bits values a byte along the channels; ``low`` and ``step`` are of one group each:
    ``[..., G, D]`` where groups run along the tokens, ``[..., T, G]`` along the channels.
    """

    codes: UInt8[Tensor, "*batch T packed"]
    low: Float[Tensor, "*batch rows cols"]
    step: Float[Tensor, "*batch rows cols"]


def quantise(x: Float[Tensor, "*batch T D"], bits: int, along: Along, group: int | None = None) -> Codes:
    """Round to ``2 ** bits`` levels between each group's smallest and largest value.

    Source: arXiv 2402.02750 (KIVI), Sec. 3: keys per channel (groups along the tokens), values per token
    (groups along the channels). The minimum and the step are kept in the dtype of ``x``, and the codes are
    chosen for them as kept. Difference: there the newest tokens stay exact; here that is the caller's.

    Args:
        x: keys or values.
        bits: 2, 4 or 8.
        along: which axis a group runs along.
        group: entries of a group; the whole axis by default. The last group may be shorter.

    >>> x = torch.tensor([[0.0, 1.0], [3.0, 4.0]])
    >>> codes = quantise(x, 2, "tokens")
    >>> codes.step.tolist(), dequantise(codes, 2, "tokens", 2).tolist()
    ([[1.0, 1.0]], [[0.0, 1.0], [3.0, 4.0]])
    """
    rows = x.float() if along == "tokens" else x.float().mT
    length = rows.shape[-2]
    size = min(group or length, length)
    spare = -length % size
    # The last group is filled up with its last entry, which changes neither of its ends.
    full = torch.cat((rows, rows[..., -1:, :].expand(*rows.shape[:-2], spare, -1)), dim=-2)
    low, high = full.unflatten(-2, (-1, size)).aminmax(dim=-2)
    low = low.to(x.dtype)
    step = ((high - low.float()) / (2**bits - 1)).to(x.dtype)
    step = torch.where(step > 0, step, torch.ones_like(step))
    codes = (rows - _spread(low, size, length)) / _spread(step, size, length)
    codes = codes.round().clamp(0, 2**bits - 1).to(torch.uint8)
    if along == "channels":
        codes, low, step = codes.mT, low.mT, step.mT
    return Codes(_pack(codes, bits), low.contiguous(), step.contiguous())


def dequantise(
    codes: Codes, bits: int, along: Along, width: int, group: int | None = None
) -> Float[Tensor, "*batch T D"]:
    """The values that :func:`quantise` kept, in the dtype they had.

    Args:
        width: channels D.
        group: as given there.
    """
    plain = _unpack(codes.codes, bits)[..., :width].float()
    low, step = codes.low, codes.step
    if along == "channels":
        plain, low, step = plain.mT, low.mT, step.mT
    length = plain.shape[-2]
    size = min(group or length, length)
    out = plain * _spread(step, size, length) + _spread(low, size, length)
    return (out if along == "tokens" else out.mT).to(codes.low.dtype)


def _spread(x: Tensor, size: int, length: int) -> Tensor:
    """Every group's entry for each of its members."""
    return x.float().repeat_interleave(size, dim=-2)[..., :length, :]


def _pack(codes: Tensor, bits: int) -> Tensor:
    each = 8 // bits
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % each)).unflatten(-1, (-1, each))
    shifts = torch.arange(0, 8, bits, device=codes.device, dtype=torch.uint8)
    packed: Tensor = (codes << shifts).sum(-1, dtype=torch.uint8)
    return packed


def _unpack(packed: Tensor, bits: int) -> Tensor:
    shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
    codes: Tensor = (packed.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return codes.flatten(-2)
