"""Streams of text: pieces with times, from SRT and JSONL files, in place of frames."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from hermes.errors import InputError
from hermes.reading import Span, fault, loads, read_lines, read_text, short, typed
from hermes.video.source import Frame, FrameSource, Pixels, Sampling, TimedImage

__all__ = ["CAPTIONS", "Caption", "CaptionSource", "captions", "read_captions"]

# Endings of files that hold captions.
CAPTIONS = (".jsonl", ".srt")
# Characters of one caption; a long text is fed in pieces.
_LONGEST = 100_000
_LAST = 1e11
# Times are kept in microseconds.
_SAME = 1e-6
_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Caption(Frame):
    """A piece of text with a time: what a stream of text has in place of a frame.

    Attributes:
        text: what is said; line breaks count as blanks.
        time: seconds on the source's own clock.
        index: its number; -1: the one that comes next.

    >>> Caption(12.5, text="It rains.")
    Caption('It rains.', time=12.5, index=-1)
    """

    image: Pixels = field(default_factory=lambda: _NO_PIXELS, init=False, repr=False)
    index: int = -1
    text: str = field(default="", kw_only=True)

    def __repr__(self) -> str:
        return f"Caption({self.text!r}, time={self.time:g}, index={self.index})"

    def check(self, where: str) -> Caption:
        """Return the caption if a model can read it.

        Raises:
            InputError: no text, half a character, or more than 100 000 characters.
        """
        if not isinstance(self.text, str) or not self.text.strip():
            raise InputError(f"{where}: the text is {short(self.text)}; needed: some words")
        if said := fault(self.text):
            raise InputError(f"{where}: the text is none: {said}")
        if len(self.text) > _LONGEST:
            raise InputError(
                f"{where}: the text has {len(self.text)} characters; at most {_LONGEST} are read at once: "
                "cut it into pieces with times of their own"
            )
        return self


def captions(items: Iterable[object], fps: float) -> Iterator[Caption]:
    """Texts, or pairs ``(time, text)``, as captions; texts without times come one every ``1 / fps`` seconds.

    Raises:
        InputError: (while iterating) something else among them.

    >>> [caption.time for caption in captions(["It rains.", "It stops."], fps=2)]
    [0.0, 0.5]
    """
    paired: bool | None = None
    for number, item in enumerate(items):
        pair = isinstance(item, tuple) and len(item) == 2
        time, text = item if isinstance(item, tuple) and pair else (number / fps, item)
        paired = pair if paired is None else paired
        if not isinstance(text, str) or pair != paired:
            raise InputError(f"text {number} is {short(item)}; needed: a text, or (time, text), as the first")
        yield Caption(time, text=text)


class CaptionSource(FrameSource):
    """The captions of a file, each once and at its own time: nothing is sampled.

    Args:
        read: of the file, in order of time.

    Raises:
        InputError: ``start`` is past the end, or (while iterating) there is no caption from start to end.
    """

    def __init__(self, name: str, sampling: Sampling, read: Iterable[_Piece]) -> None:
        self._read = tuple(read)
        # One without an end stands for a whole step, like a frame.
        ends = (piece.time + 1 / sampling.fps if piece.end is None else piece.end for piece in self._read)
        super().__init__(name, sampling, duration=max(ends, default=0.0))

    def images(self) -> Iterator[TimedImage]:
        """No pictures."""
        return iter(())

    def _sampled(self) -> Generator[Frame, None, None]:
        start, end = self.sampling.start, self.sampling.end
        number = 0
        for piece in self._read:
            if start <= piece.time and (end is None or piece.time < end):
                yield Caption(piece.time, number, text=piece.text)
                number += 1
        if not number:
            raise InputError(f"{self.name}: no caption from start to end")


class _Piece(NamedTuple):
    """One entry of a file."""

    time: float
    end: float | None
    text: str


def read_captions(path: Path, sampling: Sampling) -> CaptionSource:
    r"""The captions of an SRT file, or of a JSONL file: objects with ``time`` (s), ``text``, ``end``.

    Captions of the same time are one. Tags of SRT (``<i>``, ``{\an8}``) are left out, and so are empty cues.

    Raises:
        InputError: it cannot be read, holds no caption, a line is not of its form, or times go back; the line
            is named.
    """
    entries = _srt(path) if path.suffix.lower() == ".srt" else _jsonl(path)
    read: list[_Piece] = []
    for line, piece in entries:
        where = f"{path}, line {line}"
        Caption(piece.time, text=piece.text).check(where)
        if piece.end is not None and piece.end < piece.time:
            raise InputError(f"{where}: it ends at {piece.end:g} s, before its time, {piece.time:g} s")
        if read and piece.time < read[-1].time - _SAME:
            raise InputError(
                f"{where}: its time, {piece.time:g} s, is before that of the caption before, "
                f"{read[-1].time:g} s"
            )
        if read and piece.time <= read[-1].time + _SAME:
            before = read.pop()
            ends = [end for end in (before.end, piece.end) if end is not None]
            piece = _Piece(before.time, max(ends, default=None), f"{before.text}\n{piece.text}")
        read.append(piece)
    if not read:
        raise InputError(f"{path}: there is no caption in it")
    return CaptionSource(str(path), sampling, read)


@dataclass(frozen=True)
class _Line:
    """A line of a JSONL file."""

    time: Annotated[float, Span(0, _LAST)]
    text: str
    end: Annotated[float, Span(0, _LAST)] | None = None


def _jsonl(path: Path) -> Iterator[tuple[int, _Piece]]:
    for number, text in read_lines(path):
        where = f"{path}, line {number}"
        line = typed(_Line, loads(text, where), where)
        yield number, _Piece(line.time, line.end, line.text)


_CLOCK = r"(\d{1,6}):([0-5]?\d):([0-5]?\d)[,.](\d{1,3})"
_TIMING = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
_TAG = re.compile(r"</?[biu]>|</?font(?:\s[^<>]*)?>|\{\\[^{}]*\}", re.IGNORECASE)


def _srt(path: Path) -> Iterator[tuple[int, _Piece]]:
    at, times, said = 0, (0.0, 0.0), list[str]()
    for number, line in enumerate([*re.split(r"\r\n|\r|\n", read_text(path)), None], start=1):
        found = None if line is None else _TIMING.fullmatch(line)
        if line is not None and found is None:
            if re.match(r"\s*\d+:.*-->", line):
                raise InputError(
                    f"{path}, line {number}: {short(line)}; needed: 00:00:12,500 --> 00:00:14,000"
                )
            if not at and line.strip() and not line.strip().isdigit():
                raise InputError(
                    f"{path}, line {number}: {short(line)}; needed: the number or the time of a caption"
                )
            said.append(line)
            continue
        # The number above a time is no text.
        if found is not None and said and said[-1].strip().isdigit():
            said.pop()
        text = _TAG.sub("", "\n".join(said)).strip()
        if at and text:
            yield at, _Piece(*times, text)
        if found is not None:
            at, said = number, []
            times = (_seconds(found.groups()[:4]), _seconds(found.groups()[4:]))


def _seconds(clock: tuple[str, ...]) -> float:
    hours, minutes, seconds, fraction = clock
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
