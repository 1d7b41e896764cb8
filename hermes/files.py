"""Files that the product writes: checked beforehand, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from hermes.errors import InputError


def check_file_path(path: str | Path, what: str) -> Path:
    """The path of a file that can be written, checked before anything long is begun.

    Raises:
        InputError: it cannot; ``what`` was to be written.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path}: is a folder; {what} needs a file name")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: {folder} is not a folder that can be written to")
    return path
