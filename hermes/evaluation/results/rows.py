"""One line for every question asked: what was asked, answered and held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Annotated, Any

from hermes.data.clips import Clip, TimedQuestion
from hermes.reading import Count, Number, Share, Span
from hermes.session.answer import Answer

__all__ = ["MOST", "AnswerRow", "Row", "category", "video_of"]

# Judges' scores go from 0 to this.
MOST = 5.0
_Seconds = Annotated[float, Span(0, 1e12)]


@dataclass(frozen=True)
class AnswerRow:
    """A question of a benchmark, its answer, and what the memory held.

    Attributes:
        clip, number: which question: index of the video, and of the question in it.
        video: its path, or the name of a stream that has no file.
        task, kind, category: the benchmark's names, as far as it has them.
        expected: the right answer.
        chance: accuracy of a guess; None where the benchmark does not say and there are no choices.
        time_s: when it was asked, in seconds of the stream.
        age_s: how long before that the evidence was last on screen; None where it is everywhere or unknown.
        correct: None where the benchmark has no answer, or an open-ended answer has no verdict.
        id: of the question, where the benchmark has one.
        delay_s: seconds after its own time, of a question that is asked again.
        tpot_ms: of the tokens after the first; None where there is none.
        frame_ms: mean time to encode and compress a frame so far.
        lag_s: how long after the question all that had arrived was in the memory.
        stale_s: age of the newest frame in the memory.
        open_ended: whether a judge is needed to tell.
        score: the judge's, 0 to 5.
        judge: whose verdict it is, by the judge's identity.
    """

    clip: Count
    number: Count
    video: str
    task: str
    kind: str
    category: str
    question: str
    choices: tuple[str, ...]
    expected: str
    chance: Share | None
    time_s: Number
    age_s: _Seconds | None
    answer: str
    choice: str | None
    probabilities: Mapping[str, Share] | None
    correct: bool | None
    frames_seen: Count
    tokens_per_layer: tuple[Count, ...]
    memory_bytes: Count
    ttft_ms: Number | None
    id: str = ""
    delay_s: _Seconds = 0.0
    tpot_ms: Number | None = None
    frame_ms: Number | None = None
    lag_s: Number | None = None
    stale_s: Number | None = None
    open_ended: bool = False
    score: Number | None = None
    judge: str | None = None
    archived_bytes: Count = 0
    tokens_read: Number | None = None

    @property
    def place(self) -> tuple[int, int, float]:
        """What tells it from the run's other rows: clip, number and delay."""
        return self.clip, self.number, self.delay_s

    @property
    def needs_judge(self) -> bool:
        """Whether a judge can and must say if the answer is right."""
        return self.open_ended and bool(self.expected)

    @classmethod
    def of(
        cls,
        place: tuple[int, int],
        clip: Clip,
        question: TimedQuestion,
        answer: Answer,
        *,
        delay: float = 0.0,
    ) -> AnswerRow:
        """The row of one answer; ``place`` is (clip, number)."""
        return cls(
            *place,
            **_asked(clip, question, answer.time_s, delay),
            answer=answer.answer,
            choice=answer.choice,
            probabilities=answer.probabilities,
            correct=answer.correct,
            frames_seen=answer.frames_seen,
            tokens_per_layer=tuple(answer.tokens_per_layer),
            memory_bytes=answer.memory_bytes,
            ttft_ms=answer.ttft_ms,
            archived_bytes=answer.archived_bytes,
            tokens_read=mean(answer.read_per_layer) if answer.read_per_layer else None,
            tpot_ms=answer.tpot_ms,
            frame_ms=(answer.encode_ms + answer.compress_ms) / max(answer.frames_seen, 1),
        )

    @classmethod
    def unanswered(
        cls, place: tuple[int, int], clip: Clip, question: TimedQuestion, time: float, *, delay: float = 0.0
    ) -> AnswerRow:
        """The row of a question for which no frame had arrived: wrong, where the benchmark has an answer."""
        return cls(
            *place,
            **_asked(clip, question, time, delay),
            answer="",
            choice=None,
            probabilities=None,
            correct=False if question.answer else None,
            frames_seen=0,
            tokens_per_layer=(),
            memory_bytes=0,
            ttft_ms=None,
        )


# The name it had before.
Row = AnswerRow


def _asked(clip: Clip, question: TimedQuestion, time: float, delay: float) -> dict[str, Any]:
    extra, choices = question.extra, question.choices
    return {
        "video": clip.video or clip.id,
        "task": question.task,
        "kind": str(extra.get("kind", question.task)),
        "category": str(extra.get("category", "")),
        "question": question.question,
        "choices": choices,
        "expected": question.answer,
        "chance": extra.get("chance", 1 / len(choices) if choices else None),
        "time_s": time,
        "age_s": _age(question, time),
        "id": str(extra.get("id", "")),
        "delay_s": delay,
        "open_ended": question.open_ended,
    }


def _age(question: TimedQuestion, time: float) -> float | None:
    if question.evidence is None:
        return None
    start, end = question.evidence
    # Evidence from the first second to now is everywhere: it has no age.
    return None if start <= 0 and end >= time else max(time - end, 0.0)


def category(row: AnswerRow) -> str:
    """What a question is counted under."""
    return row.category or row.task


def video_of(row: AnswerRow) -> str:
    """What tells the videos apart: the path, or the place in the benchmark."""
    return row.video or f"video {row.clip}"
