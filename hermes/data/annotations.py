"""Annotation files of streaming benchmarks: videos, and questions at times of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hermes.errors import InputError

__all__ = ["Clip", "TimedQuestion", "read_annotations", "write_annotations"]

_KNOWN = ("question", "answer", "choices", "end_time", "task", "evidence")


@dataclass(frozen=True)
class TimedQuestion:
    """One question of a benchmark.

    Source: this project.

    Attributes:
        question: what is asked.
        answer: the right answer; of a multiple-choice question one of ``choices``, word for word.
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


@dataclass(frozen=True)
class Clip:
    """One video of a benchmark and its questions in order of time (this project)."""

    video: str
    questions: tuple[TimedQuestion, ...]
    id: str = ""
    duration: float | None = None


def read_annotations(path: str | Path, videos: str | Path | None = None) -> list[Clip]:
    """Read an annotation file in the form that StreamingBench, OVO-Bench, Video-MME and Wanderer share.

    Source: this project. The file is a JSON list of videos, each with ``video_path`` and ``conversations``;
    a question has ``question``, ``answer`` and, where they apply, ``choices``, ``end_time`` (s) and ``task``.
    Relative video paths are those from ``videos``, or from the file's folder.

    Raises:
        InputError: no such file, no JSON, or a video or question that lacks something; it says which.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: needed: a JSON list of videos, each with 'video_path' and 'conversations'")
    folder = path.parent if videos is None else Path(videos)
    return [_clip(item, f"{path}: video {i}", folder) for i, item in enumerate(content)]


def _clip(item: Any, where: str, folder: Path) -> Clip:
    if (
        not isinstance(item, dict)
        or not item.get("video_path")
        or not isinstance(item.get("conversations"), list)
    ):
        raise InputError(f"{where}: needed: an object with 'video_path' and a list 'conversations'")
    task = str(item.get("task", ""))
    asked = [_question(q, f"{where}, question {i}", task) for i, q in enumerate(item["conversations"])]
    asked.sort(key=lambda question: float("inf") if question.time is None else question.time)
    duration = item.get("duration")
    return Clip(
        video=str(folder / item["video_path"]),
        questions=tuple(asked),
        id=str(item.get("video_id", "")),
        duration=None if duration is None else float(duration),
    )


def _question(item: Any, where: str, task: str) -> TimedQuestion:
    if not isinstance(item, dict) or not item.get("question") or "answer" not in item:
        raise InputError(f"{where}: needed: an object with 'question' and 'answer'")
    choices = tuple(item.get("choices") or ())
    if choices and item["answer"] not in choices:
        raise InputError(
            f"{where}: the answer {item['answer']!r} is none of the choices: {', '.join(choices)}"
        )
    time, evidence = item.get("end_time"), item.get("evidence")
    if time is not None and not isinstance(time, int | float):
        raise InputError(f"{where}: 'end_time' is {time!r}; needed: seconds")
    return TimedQuestion(
        question=item["question"],
        answer=item["answer"],
        choices=choices,
        time=None if time is None else float(time),
        task=str(item.get("task") or item.get("question_type") or task),
        evidence=None if evidence is None else (float(evidence[0]), float(evidence[1])),
        extra={key: value for key, value in item.items() if key not in _KNOWN},
    )


def write_annotations(path: str | Path, clips: Iterable[Clip]) -> None:
    """Write what :func:`read_annotations` reads; videos below the file's folder are named from there.

    Source: this project.
    """
    path = Path(path)
    content = [_to_json(clip, path.parent) for clip in clips]
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _to_json(clip: Clip, folder: Path) -> dict[str, Any]:
    video = Path(clip.video)
    inside = video.is_relative_to(folder)
    asked = []
    for question in clip.questions:
        row: dict[str, Any] = {"question": question.question, "answer": question.answer}
        if question.choices:
            row["choices"] = list(question.choices)
        if question.time is not None:
            row["end_time"] = question.time
        row["task"] = question.task
        if question.evidence is not None:
            row["evidence"] = list(question.evidence)
        asked.append({**row, **question.extra})
    named = video.relative_to(folder).as_posix() if inside else str(video)
    given = {"video_id": clip.id, "video_path": named, "duration": clip.duration}
    return {**given, "conversations": asked}
