"""VideoMME, MVBench and EgoSchema: multiple-choice questions after the whole clip."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

from hermes.config import setting
from hermes.data.clips import Problem
from hermes.data.entries import RawQuestion
from hermes.data.readers.published import Published, listed, objects
from hermes.data.tables import load
from hermes.dialogue.choices import MOST_CHOICES
from hermes.errors import InputError

__all__ = ["EgoSchema", "MVBench", "VideoMME"]


@dataclass
class VideoMME(Published):
    """Video-MME: asked after the whole video; categories are short, medium and long.

    Source: arXiv 2405.21075. As published: the JSON file of the repository BradyFU/Video-MME (videos with
    ``questions``), or the table of the data set lmms-lab/Video-MME (a question a row, with ``videoID``).
    Videos are named by their YouTube id.

    Raises:
        InputError: a file that cannot be read, no question in it, or missing videos.
        SettingError: a wrong setting.
    """

    label: ClassVar[str] = "Video-MME"

    def completed(self, entry: RawQuestion) -> RawQuestion:
        """With the class of its video's length as category."""
        category = entry.category or str(entry.extra.get("duration_category", ""))
        return replace(super().completed(entry), category=category)

    def own_entries(self, content: Any) -> Iterator[RawQuestion | Problem]:
        """The questions of the repository's JSON file, or of the data set's table."""
        for found in self.objects(content, "video_id"):
            if isinstance(found, Problem):
                yield found
                continue
            where, video = found
            nested = "questions" in video
            rows = video["questions"] if nested else [video]
            named = f"{where}, question" if nested else where
            for question in objects(rows, named, "question", "answer"):
                yield question if isinstance(question, Problem) else self._entry(video, *question)

    def _entry(self, video: Mapping[str, Any], where: str, row: Mapping[str, Any]) -> RawQuestion:
        options = row.get("options", row.get("choices", ()))
        url = _id_in(str(video.get("url") or ""))
        known = (
            "questions",
            "question",
            "options",
            "choices",
            "answer",
            "task_type",
            "question_id",
            "duration",
        )
        return RawQuestion.of(
            where=where,
            video=f"{video.get('videoID') or url or video['video_id']}{self.suffix}",
            question=row["question"],
            answer=row["answer"],
            options=listed(options),
            form="letter",
            task=row.get("task_type"),
            category=video.get("duration_category") or video.get("duration"),
            id=row.get("question_id"),
            video_id=video["video_id"],
            extra={key: value for key, value in {**video, **row}.items() if key not in known},
        )


def _id_in(url: str) -> str:
    """The YouTube id of an address; empty where there is none."""
    try:
        return parse_qs(urlsplit(url).query).get("v", [""])[0]
    except ValueError:
        return ""


# Tasks and the folders of their videos, in the order of the shared file, which has 200 questions of each.
_MVBENCH = (
    ("Action Antonym", "ssv2_video"),
    ("Action Count", "perception/videos"),
    ("Action Localization", "sta/sta_video"),
    ("Action Prediction", "star/Charades_v1_480"),
    ("Action Sequence", "star/Charades_v1_480"),
    ("Character Order", "perception/videos"),
    ("Counterfactual Inference", "clevrer/video_validation"),
    ("Egocentric Navigation", "vlnqa"),
    ("Episodic Reasoning", "tvqa/frames_fps3_hq"),
    ("Fine-grained Action", "Moments_in_Time_Raw/videos"),
    ("Fine-grained Pose", "nturgbd"),
    ("Moving Attribute", "clevrer/video_validation"),
    ("Moving Count", "clevrer/video_validation"),
    ("Moving Direction", "clevrer/video_validation"),
    ("Object Existence", "clevrer/video_validation"),
    ("Object Interaction", "star/Charades_v1_480"),
    ("Object Shuffle", "perception/videos"),
    ("Scene Transition", "scene_qa/video"),
    ("State Change", "perception/videos"),
    ("Unexpected Action", "FunQA_test/test"),
)
_EACH = 200
_FILES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {task.lower().replace(" ", "_").replace("-", "_"): (task, folder) for task, folder in _MVBENCH}
)


@dataclass
class MVBench(Published):
    """MVBench: asked after the whole clip, twenty tasks.

    Source: arXiv 2311.17005. As published (data set OpenGVLab/MVBench): a folder of twenty JSON files, or one
    of them, with ``video``, ``candidates``, ``answer`` and, for parts of a video, ``start`` and ``end``.
    Videos are in the folders that the benchmark's notebook (OpenGVLab/Ask-Anything) names; those of TVQA are
    folders of frames, 3 a second. The shared form has no tasks: they follow from ``video_id`` (200 a task, by
    name) where the path agrees, else the task is the folder's name.

    Raises:
        InputError: a file that cannot be read, no question in it, or missing videos.
        SettingError: a wrong setting.
    """

    label: ClassVar[str] = "MVBench"
    average: ClassVar[Literal["questions", "tasks", "categories"]] = "tasks"

    def content(self) -> Any:
        """What the file holds; of a folder, its files by name.

        Raises:
            InputError: a folder without JSON files.
        """
        if not self.annotations.is_dir():
            content = super().content()
            named = self.annotations.stem in _FILES and isinstance(content, list)
            return {self.annotations.stem: content} if named else content
        files = sorted(self.annotations.glob("*.json"))
        if not files:
            raise InputError(f"{self.annotations}: no JSON file in this folder")
        return {file.stem: load(file) for file in files}

    def completed(self, entry: RawQuestion) -> RawQuestion:
        """With the task that the shared form leaves out."""
        if entry.task:
            return entry
        parts = PurePosixPath(entry.video).parts
        known = re.fullmatch("[0-9]{1,9}", entry.video_id)
        index = int(entry.video_id) // _EACH if known else len(_MVBENCH)
        if index < len(_MVBENCH):
            task, folder = _MVBENCH[index]
            # The shared file keeps one source under another name: nturgbd_convert.
            if any(part.startswith(folder.partition("/")[0]) for part in parts):
                return replace(entry, task=task)
        return replace(entry, task=parts[-2] if len(parts) > 1 else self.label)

    def own_entries(self, content: Any) -> Iterator[RawQuestion | Problem]:
        """The questions of the data set's files."""
        files = content if isinstance(content, dict) else {self.annotations.stem: content}
        for stem, rows in files.items():
            task, folder = _FILES.get(stem, (stem, ""))
            for found in self.objects(rows, "video", "question", "candidates", "answer"):
                if isinstance(found, Problem):
                    yield replace(found, where=f"{stem}, {found.where}")
                    continue
                where, row = found
                known = ("video", "question", "candidates", "answer", "start", "end", "fps", "question_id")
                frames = folder.startswith("tvqa")
                yield RawQuestion.of(
                    where=f"{stem}, {where}",
                    video=str(PurePosixPath(folder, str(row["video"]))),
                    question=row["question"],
                    answer=row["answer"],
                    options=row["candidates"],
                    start=row.get("start"),
                    end=row.get("end"),
                    source_fps=row.get("fps", 3.0 if frames else None),
                    task=task,
                    extra={key: value for key, value in row.items() if key not in known},
                )


@dataclass
class EgoSchema(Published):
    """EgoSchema: asked after three minutes of egocentric video, five options.

    Source: arXiv 2308.09126. As published: ``questions.json`` of the repository egoschema/EgoSchema, with
    ``q_uid``, ``question`` and ``option 0`` to ``option 4``; ``data.answers=subset_answers.json`` asks the
    500 questions whose answers are public. Without it all are asked, and none is scored.

    Raises:
        InputError: a file that cannot be read, no question in it, or missing videos.
        SettingError: a wrong setting.
    """

    label: ClassVar[str] = "EgoSchema"

    answers: Path | None = setting(None, help="file of the public answers; only what is in it is asked")

    def own_entries(self, content: Any) -> Iterator[RawQuestion | Problem]:
        """The questions of the repository's file."""
        answers = None if self.answers is None else load(self.answers)
        if answers is not None and not isinstance(answers, dict):
            raise InputError(f"{self.answers}: needed: a JSON object from 'q_uid' to the index of an option")
        for found in self.objects(content, "q_uid", "question"):
            if isinstance(found, Problem):
                yield found
                continue
            where, row = found
            name = str(row["q_uid"])
            if answers is not None and name not in answers:
                continue
            known = ("q_uid", "question", "answer")
            yield RawQuestion.of(
                where=where,
                video=f"{name}{self.suffix}",
                question=row["question"],
                answer=row.get("answer") if answers is None else answers[name],
                options=[row[key] for i in range(MOST_CHOICES) if (key := f"option {i}") in row],
                form="index",
                id=name,
                video_id=name,
                extra={k: v for k, v in row.items() if k not in known and not k.startswith("option ")},
            )
