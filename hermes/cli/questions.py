"""Questions from the command line or a JSONL file, checked before anything long begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hermes.dialogue.choices import MOST_CHOICES, option_meant
from hermes.errors import InputError
from hermes.reading import Number, Words, fault, loads, read_lines, typed


@dataclass(frozen=True)
class Question:
    """A question at a time of the stream (s; None: its end), with the right answer where it is known."""

    question: str
    time: float | None = None
    choices: tuple[str, ...] = ()
    answer: str | None = None

    def check(self, where: str = "") -> Question:
        """Return the question if it can be asked.

        The answer may be a choice, its letter, or both: ``lake``, ``b``, ``(B).``, ``B: lake``.

        Raises:
            InputError: an empty text, a time that is none, choices that cannot be chosen among, or an answer
                that means none of them.
        """
        if not self.question.strip():
            raise InputError(f"{where}the question is empty")
        if self.time is not None:
            _check_time(self.time, where)
        if self.choices and not 2 <= len(self.choices) <= MOST_CHOICES:
            raise InputError(f"{where}{len(self.choices)} choices; needed: from 2 to {MOST_CHOICES}")
        if any(not choice.strip() for choice in self.choices):
            raise InputError(f"{where}a choice is empty")
        if self.answer is not None and self.choices and option_meant(self.answer, self.choices) is None:
            raise InputError(
                f"{where}the answer {self.answer!r} is none of the choices: {', '.join(self.choices)}"
            )
        return self


@dataclass(frozen=True)
class _Line:
    """A line of a question file."""

    question: str
    time: Annotated[Number | None, Words("seconds, or null for the end")] = None
    choices: Annotated[tuple[str, ...] | None, Words("a list of texts")] = None
    answer: str | None = None


def _check_time(time: float, where: str) -> None:
    if not (math.isfinite(time) and time >= 0):
        raise InputError(f"{where}the question's time is {time}; needed: 0 or more seconds")


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL file: one object a line with `question`, `time`, `choices` and `answer`.

    Raises:
        InputError: a file or a line that cannot be read, with the line's number.
    """
    found = [_parse(line, f"{path}:{number}") for number, line in read_lines(path.expanduser())]
    if not found:
        raise InputError(
            f"{path}: holds no question; needed: one JSON object a line with the field 'question'"
        )
    return found


def _parse(line: str, where: str) -> Question:
    content = loads(line, where)
    time = content.get("time") if isinstance(content, dict) else None
    if isinstance(time, float):
        _check_time(time, f"{where}: ")
    if (what := fault(content)) is not None:
        raise InputError(f"{where}: {what}")
    read = typed(_Line, content, where)
    return Question(read.question, read.time, read.choices or (), read.answer).check(f"{where}: ")


def check_times(
    questions: Sequence[Question], name: str, start: float, end: float | None, step: float
) -> None:
    """Refuse times at which nothing was seen yet, or that lie past the end.

    Args:
        name: of the video.
        start: seconds of the first frame.
        end: seconds at which the stream ends; None where unknown.
        step: seconds between samples; a question may come that much after the end.

    Raises:
        InputError: a question has such a time.
    """
    for question in questions:
        time = question.time
        if time is not None and time <= start:
            raise InputError(
                f"the question time {time:g} s is not after the start ({start:g} s): no frame is seen by then"
            )
        if time is not None and end is not None and time > end + step + 1e-6:
            raise InputError(f"{name}: the question time {time:g} s is past the end ({end:.2f} s)")
