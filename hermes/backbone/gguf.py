"""GGUF files: named values and tensors, read with numpy alone, and never beyond what the file holds."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hermes.backbone.ggml_blocks import BLOCKS, TYPE_NAMES, dequantised
from hermes.errors import InputError, UnsupportedModelError

__all__ = ["Gguf", "read_gguf"]

_MAGIC = b"GGUF"
# The first has counts of other sizes, and no file that is still around.
_VERSIONS = (2, 3)
# Numbers by the format's codes, as `struct` writes them: from 8-bit to 64-bit, whole and not.
_NUMBERS: Mapping[int, str] = MappingProxyType(dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True)))
_TEXT, _LIST = 8, 9
# A file of the largest models has some 50 values and 1 000 tensors.
_MOST_VALUES, _MOST_TENSORS, _MOST_AXES = 10_000, 100_000, 4
_MOST_LETTERS = 1 << 24
_MOST_ALIGNMENT = 1 << 20


class _Stored(NamedTuple):
    """Where a tensor lies in the file, and as what."""

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class Gguf:
    """What a GGUF file holds.

    Attributes:
        path: of the file.
        values: its settings by their names, such as ``llama.block_count``.
        shapes: of each tensor, the axis that varies fastest last, as in PyTorch.
    """

    path: Path
    values: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    _stored: Mapping[str, _Stored]

    def tensor(self, name: str) -> NDArray[np.float32]:
        """One tensor as numbers of 32 bits, whatever it is stored as.

        Raises:
            InputError: not all of them are numbers.
        """
        one = self._stored[name]
        raw = np.fromfile(self.path, np.uint8, one.size, offset=one.start)
        if raw.size < one.size:
            raise InputError(f"{self.path}: it has become shorter while it was read")
        numbers = dequantised(raw, one.kind).reshape(one.shape)
        if not np.isfinite(numbers).all():
            raise InputError(f"{self.path}: tensor {name!r} holds what is no finite number")
        return numbers


def read_gguf(path: Path) -> Gguf:
    """Read the header of a GGUF file; tensors are read when they are asked for.

    Source: the specification of the format (``ggml-org/ggml``, ``docs/gguf.md``), versions 2 and 3, little
    endian. Lists in lists are not read, as no model has them.

    Raises:
        InputError: it cannot be read, or is no such file; what is wrong is named, with its place.
        UnsupportedModelError: a tensor of a type that is not read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            # The header is read from a map of the file, so that no length is believed before it is checked.
            raw: NDArray[np.uint8] = np.memmap(file, np.uint8, "r") if size else np.empty(0, np.uint8)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    cursor = _Cursor(str(path), raw.data)
    if bytes(cursor.take(min(4, size))) != _MAGIC:
        raise InputError(f"{path}: no GGUF file: it does not begin with {_MAGIC.decode()!r}")
    version = cursor.number("I")
    if version not in _VERSIONS:
        raise InputError(f"{path}: GGUF version {version}; read: {' and '.join(map(str, _VERSIONS))}")
    tensors, count = cursor.count("Q", _MOST_TENSORS, "tensors"), cursor.count("Q", _MOST_VALUES, "values")
    values: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.text()
        if name in values:
            raise cursor.wrong(f"the value {name!r} comes twice")
        values[name] = cursor.value()
    stored: dict[str, _Stored] = {}
    for _ in range(tensors):
        name, one = cursor.stored()
        if name in stored:
            raise cursor.wrong(f"the tensor {name!r} comes twice")
        stored[name] = one
    placed = _placed(cursor, stored, values.get("general.alignment", 32), size)
    shapes = {name: one.shape for name, one in placed.items()}
    return Gguf(path, *map(MappingProxyType, (values, shapes, placed)))


def _placed(cursor: _Cursor, stored: Mapping[str, _Stored], step: Any, size: int) -> dict[str, _Stored]:
    """Tensors with their places in the file, which they share with no other."""
    if not isinstance(step, int) or not 0 < step <= _MOST_ALIGNMENT or step & (step - 1):
        raise cursor.wrong(
            f"general.alignment is {step!r:.60}; needed: a power of two, at most {_MOST_ALIGNMENT}"
        )
    base = -(-cursor.at // step) * step
    placed = {name: one._replace(start=base + one.start) for name, one in stored.items()}
    end, before = base, "the header"
    for name, one in sorted(placed.items(), key=lambda item: item[1].start):
        if (one.start - base) % step:
            raise cursor.wrong(f"tensor {name!r} begins at no multiple of {step} bytes")
        if one.start < end:
            raise cursor.wrong(f"tensor {name!r} begins inside {before}")
        end, before = one.start + one.size, f"tensor {name!r}"
        if end > size:
            raise cursor.wrong(f"tensor {name!r} ends at byte {end}, and the file at {size}")
    return placed


class _Cursor:
    """Reads values one behind another; what would go beyond the end is refused before it is read."""

    def __init__(self, name: str, raw: memoryview) -> None:
        self.name, self.raw, self.at = name, raw, 0

    def wrong(self, what: str) -> InputError:
        """The error that says what is wrong, and how far the file has been read."""
        return InputError(f"{self.name}: {what} (by byte {self.at})")

    def take(self, size: int) -> memoryview:
        """The next bytes."""
        if size > len(self.raw) - self.at:
            raise self.wrong(f"{size} bytes are announced, and {len(self.raw) - self.at} are left")
        self.at += size
        return self.raw[self.at - size : self.at]

    def number(self, code: str) -> Any:
        """The next number; ``code`` is that of :mod:`struct`."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, code: str, most: int, what: str) -> int:
        """The next number, which says how many of something there are."""
        found: int = self.number(code)
        if found > most:
            raise self.wrong(f"{found} {what}; at most {most} are read")
        return found

    def text(self) -> str:
        """The next text."""
        raw = bytes(self.take(self.count("Q", _MOST_LETTERS, "bytes in a text")))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.wrong("a text that is not UTF-8") from error

    def value(self) -> Any:
        """The next value, with its type before it."""
        kind = self.number("I")
        if kind != _LIST:
            return self._one(kind)
        kind, count = self.number("I"), self.number("Q")
        if code := _NUMBERS.get(kind):
            raw = self.take(count * struct.calcsize(f"<{code}"))
            return [found for (found,) in struct.iter_unpack(f"<{code}", raw)]
        # A text is at least its length, 8 bytes.
        if kind == _TEXT and count * 8 <= len(self.raw) - self.at:
            return [self.text() for _ in range(count)]
        raise self.wrong(f"a list of {count} values of type {kind}, which is no list that is read")

    def _one(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind not in _NUMBERS:
            raise self.wrong(f"a value of type {kind}; there are 0 to 12")
        return self.number(_NUMBERS[kind])

    def stored(self) -> tuple[str, _Stored]:
        """The next tensor's name, shape, type, and place behind the header."""
        name = self.text()
        axes = self.count("I", _MOST_AXES, f"axes of tensor {name!r:.60}")
        shape = tuple(self.number("Q") for _ in range(axes))[::-1]
        kind, start = self.number("I"), self.number("Q")
        if kind not in BLOCKS:
            known = ", ".join(TYPE_NAMES[one] for one in BLOCKS)
            raise UnsupportedModelError(
                f"{self.name}: tensor {name!r:.60} is stored as {TYPE_NAMES.get(kind, f'type {kind}')}; "
                f"read: {known}. Convert the model, as with llama-quantize"
            )
        per, size = BLOCKS[kind]
        if not shape or 0 in shape or shape[-1] % per:
            needed = f"the last axis a multiple of {per}, none empty"
            raise self.wrong(
                f"tensor {name!r:.60} of {TYPE_NAMES[kind]} has the shape {shape}; needed: {needed}"
            )
        return name, _Stored(shape, kind, start, math.prod(shape) // per * size)
