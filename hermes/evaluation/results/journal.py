"""Where the rows of a run are kept, and which frames of each video were used."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hermes.errors import InputError
from hermes.evaluation.results.rows import AnswerRow
from hermes.evaluation.results.run_folder import read_manifest, run_file
from hermes.files import append_text, json_line, remove_file, write_text_whole, writing
from hermes.reading import Count, Number, parse_json, read_lines, typed
from hermes.video import Caption, Frame

__all__ = ["Broken", "Journal", "Shown", "amend", "gather", "read_broken", "read_run"]

_T = TypeVar("_T", "AnswerRow", "Shown", "Broken")
# Bytes that are looked at together for the end of the last whole line.
_BLOCK = 1 << 16


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
        pixels: CRC-32 of all pixels or texts, in order: another decoder or another file gives another.
        end: seconds; where the last frame that was read ends.
        over: whether that is where the video ends.
    """

    clip: Count
    video: str
    fps: Number
    frames: Count = 0
    indices: list[list[Count]] = field(default_factory=list)
    size: tuple[Count, ...] = ()
    pixels: Count = 0
    end: Number = 0.0
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
        if isinstance(frame, Caption):
            shown: bytes | memoryview = frame.text.encode()
        else:
            self.size = self.size or frame.image.shape[:2]
            shown = np.ascontiguousarray(frame.image).data
        self.pixels = zlib.crc32(shown, self.pixels)
        if self.indices and frame.index == self.indices[-1][1] + 1:
            self.indices[-1][1] = frame.index
        else:
            self.indices.append([frame.index, frame.index])


@dataclass(frozen=True)
class Broken:
    """A video that could not be read to its last question.

    Attributes:
        clip: index of the video.
        video: its path or name.
        questions: how many got no answer because of it; 0: it has been read since.
        error: what is wrong with it.
    """

    clip: Count
    video: str
    questions: Count
    error: str


class Journal:
    """The rows of a run in a folder; what a run that was killed has left is found again.

    The first process writes ``rows.jsonl``, process r ``rows.r.jsonl``, and each reads all of them. A last
    line that was cut short is dropped; every other line stays as it is. Of videos that are done,
    ``clips.jsonl`` holds which frames were used, and ``broken.jsonl`` tells the videos that could not be
    read, in the same manner. No other file of the folder is read or changed.

    Args:
        folder: of the run.
        rank: number of this process.

    Raises:
        InputError: a file that holds something else.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.folder, self.rank = Path(folder), rank
        self.rows = {row.place: row for row in self._found("rows", AnswerRow)}
        self.shown = {shown.clip: shown for shown in self._found("clips", Shown)}
        self.broken = _standing(self._found("broken", Broken))

    def add(self, row: AnswerRow) -> None:
        """Append a row; it is on disk when this returns."""
        self.rows[row.place] = row
        self._append("rows", row)

    def finish(self, shown: Shown) -> None:
        """A video is done: note which frames were used."""
        self.shown[shown.clip] = shown
        self._append("clips", shown)
        if (broken := self.broken.pop(shown.clip, None)) is not None:
            self._append("broken", replace(broken, questions=0, error=""))

    def lose(self, broken: Broken) -> None:
        """A video cannot be read: note which, and why."""
        self.broken[broken.clip] = broken
        self._append("broken", broken)

    def _own(self, name: str) -> Path:
        return run_file(self.folder, f"{name}.jsonl" if self.rank == 0 else f"{name}.{self.rank}.jsonl")

    def _found(self, name: str, kind: type[_T]) -> Iterator[_T]:
        for path in _files(self.folder, name):
            # Other processes mend their own files.
            if path == self._own(name):
                _mend(path)
            yield from _read(path, kind)

    def _append(self, name: str, line: AnswerRow | Shown | Broken) -> None:
        append_text(self._own(name), json_line(asdict(line)))


def gather(folder: Path) -> list[AnswerRow]:
    """The rows of all processes, in order, in the one file ``rows.jsonl``; likewise the other files."""
    journal = Journal(folder)
    rows = [row for _, row in sorted(journal.rows.items())]
    _rewrite(folder, "rows", rows)
    _rewrite(folder, "clips", [shown for _, shown in sorted(journal.shown.items())])
    if journal.broken or _files(folder, "broken"):
        _rewrite(folder, "broken", [broken for _, broken in sorted(journal.broken.items())])
    return rows


def _rewrite(folder: Path, name: str, lines: Sequence[AnswerRow | Shown | Broken]) -> None:
    whole = write_text_whole(run_file(folder, f"{name}.jsonl"), _text(lines))
    # Only now: what is read twice counts once, and nothing is ever in no file.
    for path in _files(folder, name):
        if path != whole:
            remove_file(path)


def amend(folder: Path, change: Callable[[AnswerRow], AnswerRow]) -> None:
    """Rewrite the rows that a function changes, each file at once."""
    for path in _files(folder, "rows"):
        rows = list(_read(path, AnswerRow))
        changed = [change(row) for row in rows]
        if changed != rows:
            write_text_whole(path, _text(changed))


def read_run(folder: str | Path) -> tuple[list[AnswerRow], dict[str, Any]]:
    """The rows and the manifest of a run; nothing is changed, so that one still going on can be read.

    Raises:
        InputError: no such run, or a file of it that holds something else.
    """
    folder = Path(folder)
    files = _files(folder, "rows")
    if not run_file(folder, "manifest.json").is_file() or not files:
        raise InputError(f"{folder}: not the folder of a run of 'hermes eval' (manifest.json, rows.jsonl)")
    manifest = read_manifest(folder)
    rows = {row.place: row for file in files for row in _read(file, AnswerRow)}
    if not rows:
        raise InputError(f"{folder}: a run without any answer yet")
    return [row for _, row in sorted(rows.items())], manifest


def read_broken(folder: Path) -> list[Broken]:
    """The videos of a run that could not be read, in order; nothing is changed.

    Raises:
        InputError: a file that holds something else.
    """
    found = _standing(broken for file in _files(folder, "broken") for broken in _read(file, Broken))
    return [one for _, one in sorted(found.items())]


def _standing(found: Iterable[Broken]) -> dict[int, Broken]:
    """The last word on each video, if it is still broken."""
    last = {broken.clip: broken for broken in found}
    return {clip: broken for clip, broken in last.items() if broken.questions}


def _files(folder: Path, name: str) -> list[Path]:
    """The files that the processes of a run write, by their exact names."""
    found = folder.glob(f"{name}.*jsonl")
    names = sorted(path.name for path in found if re.fullmatch(rf"{name}(\.[1-9]\d*)?\.jsonl", path.name))
    return [run_file(folder, one) for one in names]


def _mend(path: Path) -> None:
    """Drop a last line that was cut short."""
    with writing(path, "Its whole lines are kept."), path.open("r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - _BLOCK, 0)
            file.seek(start)
            if (last := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + last + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def _read(path: Path, kind: type[_T]) -> Iterator[_T]:
    for number, line in read_lines(path, unfinished=False):
        where = f"{path}, line {number}"
        try:
            yield typed(kind, parse_json(line, where), where)
        except InputError as error:
            why = str(error).removeprefix(f"{where}: ")
            raise InputError(f"{where}: not a row of an evaluation: {why}") from error


def _text(lines: Sequence[AnswerRow | Shown | Broken]) -> str:
    return "".join(json_line(asdict(line)) for line in lines)
