"""Arrays in numpy's files, read without running anything and without taking more memory than is allowed."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hermes.errors import InputError
from hermes.video.limits import Limits

_UNREADABLE = (
    ArithmeticError,
    ValueError,
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,
    SyntaxError,
)
_ZIPPED = b"PK"


def load_array(path: Path, limits: Limits) -> np.ndarray:
    """The array of a ``.npy`` or ``.npz`` file; a ``.npy`` stays on disk and is read frame by frame.

    Raises:
        InputError: no array that can be read, more than one, objects, or more bytes than ``limits`` allow.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == _ZIPPED
        if zipped:
            with zipfile.ZipFile(path) as archive:
                return _member(archive, path, limits)
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (*_UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a numpy file that can be read ({error})") from error


def _member(archive: zipfile.ZipFile, path: Path, limits: Limits) -> np.ndarray:
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    if len(names) != 1 and "frames" not in names:
        shown = ", ".join(names[:8]) + ", ..." * (len(names) > 8)
        raise InputError(f"{path}: holds {shown or 'no array'}; name one of them 'frames'")
    member = archive.namelist()[names.index("frames") if "frames" in names else 0]
    with archive.open(member) as file:
        limits.check_bytes(str(path), _bytes_of(file))
    with archive.open(member) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _bytes_of(file: Any) -> int:
    """Bytes of an array by its header."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return math.prod(shape) * dtype.itemsize
