"""Numbers as GGUF files store them: in blocks with a scale, or plain."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCKS", "TYPE_NAMES", "dequantised"]

_F32, _F16, _Q4_1, _Q8_0, _Q4_K = 0, 1, 3, 8, 12
# Types that are read: numbers in a block, and its bytes.
BLOCKS: Mapping[int, tuple[int, int]] = MappingProxyType(
    {_F32: (1, 4), _F16: (1, 2), _Q4_1: (32, 20), _Q8_0: (32, 34), _Q4_K: (256, 144)}
)
_NAMES = (
    "F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S "
    "IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 - - - TQ1_0 TQ2_0 - - - MXFP4"
)
TYPE_NAMES: Mapping[int, str] = MappingProxyType(
    {number: name for number, name in enumerate(_NAMES.split()) if name != "-"}
)


def dequantised(raw: NDArray[np.uint8], kind: int) -> NDArray[np.float32]:
    """The numbers that whole blocks stand for, in order.

    Source: the formats' definitions in ggml (``ggml-common.h``). Q8_0 is ``scale * q``, Q4_1
    ``scale * q + least``, Q4_K ``scale * s * q - least * m`` with six bits a sub-block for ``s`` and ``m``.

    Args:
        raw: bytes of the blocks.
        kind: the format's number, one of ``BLOCKS``.

    >>> one = np.array([1.0], np.float16).view(np.uint8)
    >>> dequantised(np.concatenate([one, np.arange(32, dtype=np.uint8)]), 8)[:3]
    array([0., 1., 2.], dtype=float32)
    """
    if kind in (_F32, _F16):
        plain: NDArray[np.float32] = raw.view("<f4" if kind == _F32 else "<f2").astype(np.float32)
        return plain
    blocks = raw.reshape(-1, BLOCKS[kind][1])
    scale = _halves(blocks[:, :2])  # [blocks, 1]
    if kind == _Q8_0:
        signed: NDArray[np.float32] = blocks[:, 2:].view(np.int8) * scale
        return signed.ravel()
    least = _halves(blocks[:, 2:4])
    if kind == _Q4_1:
        return (_nibbles(blocks[:, None, 4:]).reshape(-1, 32) * scale + least).ravel()
    factors, offsets = _six_bits(blocks[:, 4:16])  # [blocks, 8] each
    quants = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    numbers: NDArray[np.float32] = quants * (scale * factors)[..., None] - (least * offsets)[..., None]
    return numbers.ravel()


def _halves(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Numbers of 16 bits, ``[blocks, 2 bytes]``."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _nibbles(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of each row of bytes the lower halves, then the upper ones."""
    return np.concatenate([raw & 15, raw >> 4], -1).astype(np.float32)


def _six_bits(raw: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Eight factors and eight offsets of six bits in twelve bytes.

    The first four of each lie whole in a byte; of the others four bits lie in the last bytes, and the upper
    two in what the first eight bytes have to spare.
    """
    first, second, last = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    factors = np.concatenate([first & 63, last & 15 | first >> 6 << 4], 1)
    offsets = np.concatenate([second & 63, last >> 4 | second >> 6 << 4], 1)
    return factors.astype(np.float32), offsets.astype(np.float32)
