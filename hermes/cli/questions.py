"""Questions from the command line or a JSONL file, checked before anything long begins."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hermes.dialogue.choices import MOST_CHOICES, lettered
from hermes.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Question:
    """A question at a time of the stream (s; None: its end), with the right answer where it is known."""

    question: str
    time: float | None = None
    choices: tuple[str, ...] = ()
    answer: str | None = None

    def check(self, where: str = "") -> Question:
        """Return the question if it can be asked.

        Raises:
            InputError: an empty text, a time that is none, choices that cannot be chosen among.
        """
        if not self.question.strip():
            raise InputError(f"{where}the question is empty")
        if self.time is not None and not (math.isfinite(self.time) and self.time >= 0):
            raise InputError(f"{where}the question's time is {self.time}; needed: 0 or more seconds")
        if self.choices and not 2 <= len(self.choices) <= MOST_CHOICES:
            raise InputError(f"{where}{len(self.choices)} choices; needed: from 2 to {MOST_CHOICES}")
        if any(not choice.strip() for choice in self.choices):
            raise InputError(f"{where}a choice is empty")
        if self.answer is not None and self.choices and not self._is_a_choice(self.answer):
            raise InputError(
                f"{where}the answer {self.answer!r} is none of the choices: {', '.join(self.choices)}"
            )
        return self

    def _is_a_choice(self, answer: str) -> bool:
        return answer in self.choices or answer.strip().strip("().") in lettered(self.choices)


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL file: one object a line with `question`, `time`, `choices` and `answer`.

    Raises:
        InputError: a file or a line that cannot be read, with the line's number.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: the questions cannot be read ({reason})") from error
    found = [_parse(line, f"{path}:{number}: ") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise InputError(
            f"{path}: holds no question; needed: one JSON object a line with the field 'question'"
        )
    return found


def _parse(line: str, where: str) -> Question:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{where}a {type(content).__name__}; needed: a JSON object with the field 'question'"
        )
    known = {field.name: _TYPES[field.name] for field in fields(Question)}
    for key, value in content.items():
        if key not in known:
            hint = did_you_mean(key, known)
            raise InputError(f"{where}there is no field {key!r}; fields: {', '.join(known)}. {hint}".rstrip())
        types, words = known[key]
        if not isinstance(value, types) or isinstance(value, bool):
            raise InputError(f"{where}{key} is {json.dumps(value)}; needed: {words}")
    if "question" not in content:
        raise InputError(f"{where}the field 'question' is missing")
    choices = content.get("choices") or ()
    if not all(isinstance(choice, str) for choice in choices):
        raise InputError(f"{where}choices is {json.dumps(choices)}; needed: a list of texts")
    return Question(**{**content, "choices": tuple(choices)}).check(where)


_TYPES: dict[str, tuple[Any, str]] = {
    "question": (str, "text"),
    "time": ((int, float, type(None)), "seconds, or null for the end"),
    "choices": ((list, type(None)), "a list of texts"),
    "answer": ((str, type(None)), "text"),
}


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
