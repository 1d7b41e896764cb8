"""What is saved of a stream: a folder of safetensors and one record in JSON; no pickle, nothing that runs.

A save writes new files of tensors beside those of the save before. The record, which names them with their
checksums, is then replaced by one renaming: whoever reads finds the old save or the new one, whatever became
of the process that wrote.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from hermes.config import build, setting
from hermes.errors import InputError
from hermes.files import make_folder, remove_file, write_text_whole, write_whole, writing
from hermes.reading import parse_json

__all__ = ["load_record", "read_saved", "read_tensors", "write_saved", "write_tensors"]

T = TypeVar("T")

_RECORD = "memory.json"
_FORMAT = 2
# Names of files of tensors, the second save's and so on with digits of their own; and how they begin.
_OURS = re.compile(r"(memory|policy)(\.[0-9a-f]{16})?\.safetensors")
_MARK = b'{"__metadata__":{"format":"hermes"}'
_NO_SUM = "0" * 64
_MOST_RECORD_BYTES = 2**28
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(kw_only=True)
class _File:
    """A file of tensors, as the record names it; earlier versions noted nothing of it."""

    file: str
    bytes: int | None = setting(None, ge=0)
    sha256: str | None = None


def write_saved(
    folder: str | Path, files: Mapping[str, Mapping[str, Tensor]], record: Mapping[str, Any]
) -> None:
    """Write tensors and their record to a folder, in place of what was saved there before.

    Args:
        folder: made where it is missing; other files in it are left alone.
        files: ``memory``, and what else there is, each by the names of its tensors.
        record: everything that is no tensor, for JSON.

    Raises:
        InputError: it cannot be written, or the folder holds a ``memory.json`` that is no such record. What
            was saved before is as it was.
    """
    path = make_folder(folder)
    with _locked(path):
        before = _named_files(path)
        about: dict[str, dict[str, Any]] = {}
        try:
            for name, tensors in files.items():
                about[name] = _write(path, name, tensors)
            write_text_whole(path / _RECORD, _sealed({**record, "format": _FORMAT, "files": about}))
        except BaseException:
            # It may have been interrupted once the record was there.
            _remove(path, {each["file"] for each in about.values()} - _named_files(path))
            raise
        # Of the save before, and of those that were killed.
        with suppress(OSError):
            before |= {file.name for file in path.iterdir() if _is_ours(file)}
        _remove(path, before - {each["file"] for each in about.values()})


def _remove(folder: Path, names: set[str]) -> None:
    for name in names:
        with suppress(InputError):
            remove_file(folder / name)


def _sealed(record: Mapping[str, Any]) -> str:
    """A record as text, with a checksum of itself at its end."""
    text = json.dumps({**record, "checksum": _NO_SUM}, indent=1, allow_nan=False)
    head, _, tail = text.rpartition(_NO_SUM)
    return f"{head}{_sum(text)}{tail}"


def _write(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write tensors, whole or not at all: what the record says of their file."""
    path = folder / f"{name}.safetensors"
    if os.path.lexists(path):
        path = folder / f"{name}.{secrets.token_hex(8)}.safetensors"
    digest, size = hashlib.sha256(), 0

    def write(aside: Path) -> None:
        nonlocal size
        for piece in _written(aside, tensors):
            digest.update(piece)
            size += len(piece)

    write_whole(path, write)
    return {"file": path.name, "bytes": size, "sha256": digest.hexdigest()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file of safetensors that goes with this process: not summed up, and not forced to the disk.

    Raises:
        OSError: it cannot be written.
    """
    for _ in _written(path, tensors):
        pass


def _written(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """What was written to a file of safetensors, piece by piece."""
    with path.open("wb") as file:
        for piece in _pieces(tensors):
            file.write(piece)
            yield piece


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A file of safetensors, bit by bit: at no time is there a second copy of everything."""
    # The widest numbers first: every tensor is then aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    entries, end = [], 0
    for name in order:
        x, start = tensors[name], end
        end += x.nbytes
        about = {"dtype": _NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [start, end]}
        entries.append(f"{json.dumps(name)}:{json.dumps(about)}".encode())
    head = b",".join([_MARK, *entries]) + b"}"
    head += b" " * (-len(head) % 8)
    yield len(head).to_bytes(8, "little") + head
    for name in order:
        yield tensors[name].detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data


def read_saved(folder: str | Path, read: Callable[[Mapping[str, Any]], T]) -> T:
    """What ``read`` makes of the record of a folder and of the files that it names, all of one save.

    Args:
        read: is called again where another process has saved in the meantime.

    Raises:
        InputError: nothing is saved there, or it is damaged.
    """
    while True:
        text = _record_text(Path(folder))
        try:
            return read(_parsed(Path(folder) / _RECORD, text))
        except InputError:
            if _record_text(Path(folder)) == text:
                raise


def load_record(folder: str | Path) -> dict[str, Any]:
    """What was written beside a memory's tensors; checked, if it is of this version.

    Raises:
        InputError: nothing is saved there, or it is damaged.
    """
    return _parsed(Path(folder) / _RECORD, _record_text(Path(folder)))


def _record_text(folder: Path) -> str:
    with _opened(folder / _RECORD) as file:
        raw = file.read(_MOST_RECORD_BYTES + 1)
    if len(raw) > _MOST_RECORD_BYTES:
        raise InputError(f"{folder / _RECORD}: damaged: larger than {_MOST_RECORD_BYTES >> 20} MB")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{folder / _RECORD}: damaged: not UTF-8 ({error.reason})") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    record = parse_json(text, f"{path}: damaged")
    if not isinstance(record, dict) or not isinstance(record.get("format"), int) or "layers" not in record:
        raise InputError(f"{path}: not the record of a saved memory (format, layers)")
    if record["format"] not in range(1, _FORMAT + 1):
        raise InputError(
            f"{path}: format: {record['format']}, written by a later version; this one reads 1 to {_FORMAT}"
        )
    if record["format"] > 1:
        noted = str(record.get("checksum"))
        head, _, tail = text.rpartition(noted)
        if _sum(f"{head}{_NO_SUM}{tail}") != noted:
            raise InputError(f"{path}: damaged: checksum: its content is not what was written")
    return record


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _files(path: Path, record: Mapping[str, Any]) -> dict[str, _File]:
    """The files of tensors that a record names, by what is in them."""
    if record["format"] == 1:
        names = ("memory", "policy") if "video" in record else ("memory",)
        return {name: _File(file=f"{name}.safetensors") for name in names}
    named = record.get("files")
    if not isinstance(named, dict):
        raise InputError(f"{path}: files: not an object")
    found = {name: build(_File, each, f"{path}: files.{name}") for name, each in named.items()}
    for name, about in found.items():
        if not _OURS.fullmatch(about.file):
            raise InputError(f"{path}: files.{name}.file: {about.file!r} is no name of a file of this folder")
    return found


def read_tensors(
    folder: str | Path, record: Mapping[str, Any], name: str, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The tensors of a file that a record names, checked against it.

    Args:
        name: what is in the file: ``memory``, ``policy``.

    Raises:
        InputError: there is no such file, it is not the one that was written, or it is damaged.
    """
    about = _files(Path(folder) / _RECORD, record).get(name)
    if about is None:
        raise InputError(f"{Path(folder) / _RECORD}: files: no file {name!r}")
    path = Path(folder) / about.file
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if about.bytes not in (None, size):
            raise InputError(f"{path}: damaged: {size} bytes, and {about.bytes} were written")
        digest = hashlib.sha256()
        try:
            found = _parse_tensors(file, size, digest)
        except (InputError, ValueError, RuntimeError, MemoryError) as error:
            raise InputError(f"{path}: damaged: {error}") from error
    if about.sha256 not in (None, digest.hexdigest()):
        raise InputError(f"{path}: damaged: checksum: its content is not what was written")
    return {key: tensor.to(device) for key, tensor in found.items()}


def _parse_tensors(file: BinaryIO, size: int, digest: Any) -> dict[str, Tensor]:
    def take(count: int) -> Tensor:
        piece = torch.empty(count, dtype=torch.uint8)
        if file.readinto(piece.numpy().data) != count:  # type: ignore[attr-defined]
            raise ValueError("it ends too early")
        digest.update(piece.numpy().data)
        return piece

    if size < 8:
        raise ValueError("it ends too early")
    length = int.from_bytes(take(8).numpy().tobytes(), "little")
    if length > size - 8:
        raise ValueError(f"header: {length} bytes long, in a file of {size}")
    header = parse_json(take(length).numpy().tobytes().decode(), "header")
    if not isinstance(header, dict):
        raise ValueError("header: not a JSON object")
    header.pop("__metadata__", None)
    entries = sorted(_entry(name, entry) for name, entry in header.items())
    found, at = {}, 0
    for start, end, name, dtype, shape in entries:
        if start != at or end > size - 8 - length:
            raise ValueError(f"header: {name}: data_offsets {[start, end]}, where {at} is next")
        found[name], at = take(end - start).view(_DTYPES[dtype]).view(shape), end
    if at != size - 8 - length:
        raise ValueError(f"header: the tensors end at byte {at} of {size - 8 - length}")
    return found


def _entry(name: str, entry: Any) -> tuple[int, int, str, str, list[int]]:
    """Where a tensor lies, its name, type and shape; what is said agrees with itself."""
    about: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype, shape, place = (about.get(key, "missing") for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"header: {name}: dtype {dtype!r}")
    for key, value in (("shape", shape), ("data_offsets", place)):
        if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
            raise ValueError(f"header: {name}: {key} {value!r}")
    count = _DTYPES[dtype].itemsize
    for length in shape:
        count *= length
    if len(place) != 2 or place[1] - place[0] != count:
        raise ValueError(f"header: {name}: shape {shape} of {dtype} at data_offsets {place}")
    return place[0], place[1], name, dtype, shape


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A plain file of the folder itself: no link, which may lead elsewhere, and nothing that waits."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            folder = path.parent
            raise InputError(f"{folder}: no saved memory: {path.name} is not in this folder") from error
        reason = "a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        raise InputError(f"{path}: cannot be read ({reason})") from error
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: not a plain file")
    with os.fdopen(handle, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process saves at a time; the lock goes with its process."""
    with writing(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        # Not every file system can.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _named_files(folder: Path) -> set[str]:
    """Files that the record of a folder names, none where there is none or it is damaged.

    Raises:
        InputError: the record is a file of somebody else's.
    """
    path = folder / _RECORD
    if not path.exists():
        return set()
    try:
        record = load_record(folder)
        return {about.file for about in _files(path, record).values()}
    except InputError as error:
        if "not the record" in str(error):
            raise InputError(f"{path}: is there already, and is no record of a saved memory") from error
        return set()


def _is_ours(path: Path) -> bool:
    if not _OURS.fullmatch(path.name):
        return False
    try:
        with _opened(path) as file:
            return file.read(8 + len(_MARK))[8:] == _MARK
    except InputError:
        return False
