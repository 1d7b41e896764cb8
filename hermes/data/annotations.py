"""The annotation format that the method's release, Wanderer and any data of your own share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hermes.data.clips import Clip, Problem, TimedQuestion
from hermes.data.entries import RawQuestion, collect
from hermes.data.tables import load
from hermes.errors import InputError
from hermes.reading import fault, lies_in

__all__ = ["Clip", "TimedQuestion", "is_shared", "read_annotations", "shared_entries", "write_annotations"]

_OF_QUESTION = ("question", "answer", "choices", "end_time", "evidence", "task", "question_type")
_OF_VIDEO = ("video_path", "conversations", "video_id", "duration", "task", "fps")
_BOUNDS = ("clip_start_time", "clip_end_time", "clip")


def is_shared(content: Any) -> bool:
    """Whether this is a list, and any of it has ``video_path`` and ``conversations``."""
    rows = content if isinstance(content, list) else []
    return any(isinstance(row, dict) and "video_path" in row and "conversations" in row for row in rows)


def shared_entries(content: Any, path: Path) -> Iterator[RawQuestion | Problem]:
    """The questions of a list of videos, each with ``video_path`` and ``conversations``.

    Source: the annotation files of the release of arXiv 2601.14724, as far as they show their format. A
    video may have ``video_id``, ``duration`` (s), ``task``, ``fps`` (of a folder of frames) and bounds
    (``clip_start_time`` and ``clip_end_time``, or ``clip``: two times). A question has ``question``,
    ``answer`` and, where they apply, ``choices``, ``end_time`` (when it is asked, s), ``start_time`` (from
    when to then its evidence is seen) or ``evidence`` (two times), ``task`` or ``question_type``.

    Raises:
        InputError: no such list.
    """
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: needed: a JSON list of videos, each with 'video_path' and 'conversations'")
    for i, video in enumerate(content):
        where = f"video {i}"
        asked = video.get("conversations") if isinstance(video, dict) else None
        if not isinstance(asked, list) or not isinstance(video.get("video_path"), str):
            yield Problem(where, "needed: an object with 'video_path' and a list 'conversations'")
            continue
        about = {key: value for key, value in video.items() if key != "conversations"}
        if (what := fault(about)) is not None:
            yield Problem(where, what)
            continue
        for j, question in enumerate(asked):
            at = f"{where}, question {j}"
            if (
                not isinstance(question, dict)
                or not isinstance(question.get("question"), str)
                or "answer" not in question
            ):
                yield Problem(at, "needed: an object with 'question' and 'answer'")
            elif (what := fault(question)) is not None:
                yield Problem(at, what)
            else:
                yield _entry(about, question, at)


def _entry(video: dict[str, Any], question: dict[str, Any], where: str) -> RawQuestion:
    clip = video.get("clip")
    start, end = clip if isinstance(clip, (list, tuple)) and len(clip) == 2 else (None, None)
    time, first = question.get("end_time"), question.get("start_time")
    known = (*_OF_QUESTION, "start_time")
    return RawQuestion.of(
        where=where,
        video=video["video_path"],
        question=question["question"],
        answer=question["answer"],
        options=question.get("choices"),
        time=time,
        start=video.get("clip_start_time", start),
        end=video.get("clip_end_time", end),
        evidence=question.get("evidence", None if first is None else (first, time)),
        duration=video.get("duration"),
        source_fps=video.get("fps"),
        task=question.get("task") or question.get("question_type") or video.get("task"),
        id=question.get("question_id", question.get("id")),
        video_id=video.get("video_id"),
        extra={
            **{key: value for key, value in video.items() if key not in (*_OF_VIDEO, *_BOUNDS)},
            **{key: value for key, value in question.items() if key not in known},
        },
    )


def read_annotations(
    path: str | Path, videos: str | Path | None = None, *, outside: bool = False
) -> list[Clip]:
    """Read an annotation file in the form of :func:`shared_entries`, and stop at the first fault.

    Relative video paths are those from ``videos``, or from the file's folder. A benchmark
    (``data=annotations``) reads the same form, tolerantly.

    Args:
        path: of the file.
        videos: folder of the videos.
        outside: take videos that lie outside of it, too.

    Raises:
        InputError: no such file, no JSON, a video or question that lacks something, or a video that lies
            elsewhere; it says which.
    """
    path = Path(path)
    folder = path.parent if videos is None else Path(videos)
    reading = collect(shared_entries(load(path), path), lambda named: str(folder / named))
    for problem in reading.problems:
        if problem.left_out:
            raise InputError(f"{path}: {problem.where}: {problem.what}")
    for clip in [] if outside else reading.clips:
        if not lies_in(clip.video, folder):
            raise InputError(f"{path}: the video {reading.named[clip.video]!r} lies outside of {folder}")
    return list(reading.clips)


def write_annotations(path: str | Path, clips: Iterable[Clip]) -> None:
    """Write what :func:`read_annotations` reads; videos below the file's folder are named from there."""
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
    bounds = {"clip_start_time": clip.start or None, "clip_end_time": clip.end, "fps": clip.source_fps}
    given |= {key: value for key, value in bounds.items() if value is not None}
    return {**given, "conversations": asked}
