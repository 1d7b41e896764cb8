"""What an annotation file comes to: videos, questions at times of them, and what is wrong with either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Clip", "Problem", "TimedQuestion"]


@dataclass(frozen=True)
class TimedQuestion:
    """One question of a benchmark.

    Attributes:
        question: what is asked.
        answer: the right answer, empty if unknown; of a multiple-choice question one of ``choices``, word for
            word.
        choices: options; empty for an open question.
        time: seconds of the video that have passed when it is asked; None: at its end.
        task: the benchmark's name for this kind of question.
        evidence: seconds from and to which the evidence is on screen, where the benchmark says so.
        extra: every other field.
    """

    question: str
    answer: str
    choices: tuple[str, ...] = ()
    time: float | None = None
    task: str = ""
    evidence: tuple[float, float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def open_ended(self) -> bool:
        """Whether an answer in other words may be right, so that a judge is needed (``extra`` says so)."""
        return bool(self.extra.get("open_ended")) and not self.choices

    @property
    def lead(self) -> str:
        """What its answer begins with, where the benchmark says so (``extra``)."""
        lead = self.extra.get("lead")
        return lead if isinstance(lead, str) else ""


@dataclass(frozen=True)
class Clip:
    """One video of a benchmark, or a part of it, and its questions in order of time.

    All times are seconds of the video file, also where the stream begins at ``start``.

    Attributes:
        video: path, or empty where there is no file.
        id: the benchmark's name for it.
        duration: seconds of the whole video, where the benchmark says so.
        start, end: the part that is streamed; ``end`` None: to the end of the video.
        source_fps: rate of a folder of frames or an array, where the benchmark says so.
    """

    video: str
    questions: tuple[TimedQuestion, ...]
    id: str = ""
    duration: float | None = None
    start: float = 0.0
    end: float | None = None
    source_fps: float | None = None


@dataclass(frozen=True)
class Problem:
    """Something wrong with an annotation file or a video.

    Attributes:
        where: entry and video.
        what: what is wrong, in words.
        kind: heading that it is listed under, such as ``"bad times"``.
        left_out: whether a question, or the whole entry, cannot be asked because of it.
    """

    where: str
    what: str
    kind: str = "broken entries"
    left_out: bool = True
