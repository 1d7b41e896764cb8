"""Where the rows of a run are kept, and which frames of each video were used."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hermes.errors import InputError
from hermes.evaluation.results.rows import AnswerRow
from hermes.files import append_text, json_line, remove_file, write_text_whole
from hermes.video import Frame

__all__ = ["Journal", "Shown", "amend", "gather", "read_run"]

_T = TypeVar("_T", "AnswerRow", "Shown")
_TUPLES = frozenset({"choices", "tokens_per_layer", "size"})


@dataclass
class Shown:
    """Which frames of a video a run has used, up to the last question.

    Attributes:
        clip: index of the video.
        video: its path or name.
        fps: at which it was sampled; frame k of the sampling is at ``start + k / fps`` seconds.
        frames: how many were taken.
        indices: first and last index of each run of frames that follow each other.
        size: height and width of the first frame, pixels.
        pixels: CRC-32 of all pixels, in order: another decoder or another file gives another.
        end: seconds; where the last frame that was read ends.
        over: whether that is where the video ends.
    """

    clip: int
    video: str
    fps: float
    frames: int = 0
    indices: list[list[int]] = field(default_factory=list)
    size: tuple[int, ...] = ()
    pixels: int = 0
    end: float = 0.0
    over: bool = False

    def passing(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames as they are; notes where they end."""
        for frame in frames:
            self.end = frame.time + 1 / self.fps
            yield frame
        self.over = True

    def add(self, frame: Frame) -> None:
        """Count a frame."""
        self.frames += 1
        self.size = self.size or frame.image.shape[:2]
        self.pixels = zlib.crc32(np.ascontiguousarray(frame.image).data, self.pixels)
        if self.indices and frame.index == self.indices[-1][1] + 1:
            self.indices[-1][1] = frame.index
        else:
            self.indices.append([frame.index, frame.index])


class Journal:
    """The rows of a run in a folder; what a run that was killed has left is found again.

    The first process writes ``rows.jsonl``, process r ``rows.r.jsonl``, and each reads all of them. A last
    line that was cut short is dropped; every other line stays as it is. Of videos that are done,
    ``clips.jsonl`` holds which frames were used, in the same manner.

    Args:
        folder: of the run.
        rank: number of this process.

    Raises:
        InputError: a file that holds something else.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self.rows: dict[tuple[int, int, float], AnswerRow] = {}
        self.shown: dict[int, Shown] = {}
        for path in _files(folder, "rows"):
            for row in _read(path, AnswerRow, mend=path == self._own("rows")):
                self.rows[row.place] = row
        for path in _files(folder, "clips"):
            for shown in _read(path, Shown, mend=path == self._own("clips")):
                self.shown[shown.clip] = shown

    def add(self, row: AnswerRow) -> None:
        """Append a row; it is on disk when this returns."""
        self.rows[row.place] = row
        self._append("rows", row)

    def finish(self, shown: Shown) -> None:
        """A video is done: note which frames were used."""
        self.shown[shown.clip] = shown
        self._append("clips", shown)

    def _own(self, name: str) -> Path:
        return self.folder / (f"{name}.jsonl" if self.rank == 0 else f"{name}.{self.rank}.jsonl")

    def _append(self, name: str, line: AnswerRow | Shown) -> None:
        append_text(self._own(name), json_line(asdict(line)))


def gather(folder: Path) -> list[AnswerRow]:
    """The rows of all processes, in order, in the one file ``rows.jsonl``; likewise ``clips.jsonl``."""
    journal = Journal(folder)
    rows = [row for _, row in sorted(journal.rows.items())]
    _rewrite(folder, "rows", rows)
    _rewrite(folder, "clips", [shown for _, shown in sorted(journal.shown.items())])
    return rows


def _rewrite(folder: Path, name: str, lines: Sequence[AnswerRow | Shown]) -> None:
    whole = write_text_whole(folder / f"{name}.jsonl", _text(lines))
    # Only now: what is read twice counts once, and nothing is ever in no file.
    for path in _files(folder, name):
        if path != whole:
            remove_file(path)


def amend(folder: Path, change: Callable[[AnswerRow], AnswerRow]) -> None:
    """Rewrite the rows that a function changes, each file at once."""
    for path in _files(folder, "rows"):
        rows = list(_read(path, AnswerRow, mend=False))
        changed = [change(row) for row in rows]
        if changed != rows:
            write_text_whole(path, _text(changed))


def read_run(folder: Path) -> tuple[list[AnswerRow], dict[str, Any]]:
    """The rows and the manifest of a run; nothing is changed, so that one still going on can be read.

    Raises:
        InputError: no such run, or a file of it that holds something else.
    """
    path, files = folder / "manifest.json", _files(folder, "rows")
    if not path.is_file() or not files:
        raise InputError(f"{folder}: not the folder of a run of 'hermes eval' (manifest.json, rows.jsonl)")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    rows = {row.place: row for file in files for row in _read(file, AnswerRow, mend=False)}
    if not rows or not isinstance(manifest, dict):
        raise InputError(f"{folder}: a run without any answer yet, or without settings")
    return [row for _, row in sorted(rows.items())], manifest


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}*.jsonl"))


def _read(path: Path, kind: type[_T], *, mend: bool) -> Iterator[_T]:
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    # Other processes mend their own files.
    if mend and len(whole) < len(text):
        os.truncate(path, len(whole.encode()))
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            content: dict[str, Any] = json.loads(line)
            # What JSON gives as a list is a tuple in a row.
            made: Any = {k: tuple(v) if k in _TUPLES else v for k, v in content.items()}
            yield kind(**made)
        except (ValueError, TypeError, AttributeError) as error:
            wanted = ", ".join(sorted(f.name for f in fields(kind)))
            raise InputError(f"{path}, line {number}: not a row of an evaluation ({wanted})") from error


def _text(lines: Sequence[AnswerRow | Shown]) -> str:
    return "".join(json_line(asdict(line)) for line in lines)
