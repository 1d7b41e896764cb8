"""StreamingBench and OVO-Bench: multiple-choice questions at times of a stream."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from hermes.data.clips import Problem
from hermes.data.entries import RawQuestion, text_of
from hermes.data.readers.published import Published, listed, objects
from hermes.reading import short

__all__ = ["OvoBench", "StreamingBench"]


@dataclass
class StreamingBench(Published):
    """StreamingBench, real-time visual understanding: asked at time stamps, ten tasks.

    Source: arXiv 2411.03628. As published: ``questions_real.json`` of the repository THUNLP-MT/StreamingBench
    (videos with ``video_path`` and ``questions``), or ``Real_Time_Visual_Understanding.csv`` of the data set
    mjuicem/StreamingBench, whose ``question_id`` tells the sample: ``sample_7`` is ``sample_7_real.mp4``.

    Raises:
        InputError: a file that cannot be read, no question in it, or missing videos.
        SettingError: a wrong setting.
    """

    label: ClassVar[str] = "StreamingBench"

    def own_entries(self, content: Any) -> Iterator[RawQuestion | Problem]:
        """The questions of the repository's JSON file, or of the data set's table."""
        first = content[0] if isinstance(content, list) and content else None
        table = isinstance(first, dict) and "question_id" in first
        for found in self.objects(content, *(["question_id"] if table else ["video_path", "questions"])):
            if isinstance(found, Problem):
                yield found
                continue
            where, row = found
            if table:
                sample = re.search(r"sample_(\d+)", str(row["question_id"]))
                video = f"sample_{sample[1]}_real{self.suffix}" if sample else str(row["question_id"])
                yield from self._questions([row], where, video)
            else:
                yield from self._questions(row["questions"], f"{where}, question", str(row["video_path"]))

    def _questions(self, rows: Any, where: str, video: str) -> Iterator[RawQuestion | Problem]:
        for found in objects(rows, where, "question", "time_stamp", "options"):
            if isinstance(found, Problem):
                yield found
                continue
            at, row = found
            known = ("question", "answer", "options", "time_stamp", "task_type", "question_id")
            yield RawQuestion.of(
                where=at,
                video=video,
                question=row["question"],
                answer=row.get("answer"),
                options=listed(row["options"]),
                form="letter",
                time=row["time_stamp"],
                task=row.get("task_type"),
                id=row.get("question_id"),
                extra={key: value for key, value in row.items() if key not in known},
            )


_REAL_TIME = ("STU", "OJR", "ATR", "ACR", "OCR", "FPD")
_BACKWARD = ("EPM", "ASI", "HLD")
_WHY = "a forward task is answered when the evidence comes, not when it is asked; a session answers at once"


@dataclass
class OvoBench(Published):
    """OVO-Bench, real-time perception and backward tracing: asked at times of the stream, nine tasks.

    Source: arXiv 2501.05510. As published: ``ovo_bench_new.json`` of the repository JoeLeelyf/OVO-Bench, with
    ``video``, ``realtime``, ``options`` and ``gt``. The forward tasks (REC, SSR, CRR) are refused.

    Raises:
        InputError: a file that cannot be read, no question in it, or missing videos.
        SettingError: a wrong setting, such as a forward task in ``data.tasks``.
    """

    label: ClassVar[str] = "OVO-Bench"
    # Without the forward tasks: not the mean of three that OVO-Bench itself reports.
    average: ClassVar[Literal["questions", "tasks", "categories"]] = "categories"
    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(("REC", "SSR", "CRR"), _WHY)

    def completed(self, entry: RawQuestion) -> RawQuestion:
        """With the category of its task."""
        entry = super().completed(entry)
        category = "backward" if entry.task in _BACKWARD else "real-time"
        return replace(entry, category=category if entry.task in (*_BACKWARD, *_REAL_TIME) else "other")

    def own_entries(self, content: Any) -> Iterator[RawQuestion | Problem]:
        """The questions of the repository's file; each probe of a forward task counts as one."""
        for found in self.objects(content, "video", "task"):
            if isinstance(found, Problem):
                yield found
                continue
            where, row = found
            task, video, name = text_of(row["task"]), str(row["video"]), row.get("id")
            if task is None:
                yield Problem(where, f"'task' is {short(row['task'])}; needed: text")
                continue
            if task in self.refused:
                probes = row.get("test_info")
                for _ in probes if isinstance(probes, list) else [None]:
                    yield RawQuestion.of(where=where, video=video, question=row.get("question"), task=task)
                continue
            known = ("video", "task", "id", "realtime", "question", "options", "gt", "answer")
            by_index = row.get("gt") is not None
            yield RawQuestion.of(
                where=where,
                video=video,
                question=row.get("question"),
                answer=row["gt"] if by_index else row.get("answer"),
                options=row.get("options"),
                form="index" if by_index else "text",
                time=row.get("realtime"),
                task=task,
                id=name,
                extra={key: value for key, value in row.items() if key not in known},
            )
