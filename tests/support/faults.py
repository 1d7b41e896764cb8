"""Faults of the machine, one at a time: the n-th call that writes fails, or is the process's last."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CALLS = ("open", "write", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "ftruncate", "truncate")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def no_space(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed(*args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Counted:
    """Counts calls that write below a folder; ``act`` is called in place of the n-th (0: of none)."""

    def __init__(self, folder: Path, at: int, act: Callable[..., None]) -> None:
        self.folder, self.at, self.act = str(folder), at, act
        self.calls = 0
        self.open_files: set[int] = set()

    def step(self, *args: object) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.act(*args)

    def ours(self, target: object) -> bool:
        if isinstance(target, int):
            return target in self.open_files
        return isinstance(target, (str, os.PathLike)) and os.fspath(target).startswith(self.folder)


@contextmanager
def counted(folder: Path, at: int = 0, act: Callable[..., None] = no_space) -> Iterator[Counted]:
    """Count what is written below a folder by ``os`` and ``open`` inside the block."""
    state = Counted(folder, at, act)
    real = {name: getattr(os, name) for name in CALLS}
    real_open = io.open

    def patched(name: str) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **options: Any) -> Any:
            flags = args[0] if name == "open" and args else options.get("flags", 0)
            if state.ours(target) and (name != "open" or flags & _WRITES):
                state.step(name, target)
            made = real[name](target, *args, **options)
            if name == "open" and state.ours(target):
                state.open_files.add(made)
            return made

        return call

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        writes = state.ours(file) and any(letter in mode for letter in "wax+")
        if writes:
            state.step("open", file)
        made = real_open(file, mode, *args, **options)
        return _Written(made, state) if writes else made

    for name in CALLS:
        setattr(os, name, patched(name))
    io.open = builtins.open = opened  # type: ignore[assignment]
    try:
        yield state
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        io.open = builtins.open = real_open  # type: ignore[assignment]


class _Written:
    """A file whose every write counts; half of a write that fails is in the file."""

    def __init__(self, file: Any, state: Counted) -> None:
        self._file, self._state = file, state

    def write(self, data: Any) -> Any:
        self._state.calls += 1
        if self._state.calls == self._state.at:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            self._state.act()
        return self._file.write(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> Any:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)
