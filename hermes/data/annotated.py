"""Benchmarks read from annotation files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from hermes.config import setting
from hermes.data.annotations import shared_entries
from hermes.data.benchmark import Benchmark, Survey, video_frames
from hermes.data.clips import Clip, Problem, TimedQuestion
from hermes.data.entries import ROUNDING, RawQuestion, Reading, collect
from hermes.data.tables import load
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.reading import lies_in
from hermes.video import Frame, VideoConfig, open_source

__all__ = ["Annotated"]

_logger = logging.getLogger("hermes.data")

_MISSING = ("error", "skip")


@dataclass
class Annotated(Benchmark):
    """Videos and an annotation file in the form of :func:`hermes.data.annotations.shared_entries`.

    What cannot be asked (no such option, a time at which nothing was shown) is left out with a warning;
    ``hermes validate data=... data.annotations=...`` lists it.

    Raises:
        InputError: a file that cannot be read, no question in it, or missing videos.
        SettingError: a wrong setting.
    """

    # Tasks that cannot be asked of a stream's memory, and why.
    refused: ClassVar[Mapping[str, str]] = {}

    annotations: Path = setting(help="the annotation file")
    videos: Path | None = setting(
        None, help="folder of the videos; default: paths as they are, relative ones from the file's folder"
    )
    strip: int | None = setting(
        None,
        help="leading parts dropped from the annotations' paths; default, if there is a folder of videos: "
        "those that all absolute paths share",
        ge=0,
    )
    replace: dict[str, str] = setting(
        {}, help="changes to the annotations' paths: regular expression to text"
    )
    source_fps: float = setting(
        1.0, help="frames a second of folders and .npy files, unless the annotations say", gt=0
    )
    cut: bool = setting(False, help="videos hold the clips alone, beginning at their start")
    missing: str = setting("error", help="what to do about missing videos", choices=_MISSING)
    tasks: list[str] = setting([], help="tasks to ask; all by default")
    outside: bool = setting(
        False,
        help="open videos outside of their folder, which annotations name by '..', '/...' or a link",
        later=True,
    )
    lasting: list[str] = setting(
        [], help="tasks whose answers stay right to the end of the video, for questions asked again (delays)"
    )

    def __post_init__(self) -> None:
        if self.missing not in _MISSING:
            raise SettingError("missing", self.missing, _MISSING, did_you_mean(self.missing, _MISSING))
        for pattern in self.replace:
            try:
                re.sub(pattern, self.replace[pattern], "")
            except (re.error, IndexError) as error:
                raise SettingError(
                    "replace", pattern, "a regular expression and its text", f"{error}."
                ) from error

    def entries(self) -> Iterator[RawQuestion | Problem]:
        """Every question of the file, unchecked; a problem for what cannot be read."""
        return shared_entries(load(self.annotations), self.annotations)

    @functools.cached_property
    def _read(self) -> tuple[Reading, tuple[str, ...], _Places]:
        """What the file holds, notes about it, and where its videos are."""
        items = list(self.entries())
        counts = Counter(item.task for item in items if isinstance(item, RawQuestion))
        self._check_tasks(counts)
        wanted = set(self.tasks or counts) - set(self.refused)
        kept = [item for item in items if isinstance(item, Problem) or item.task in wanted]
        notes = []
        for why in dict.fromkeys(self.refused.values()):
            tasks = [task for task, reason in self.refused.items() if reason == why and task in counts]
            if tasks:
                number = sum(counts[task] for task in tasks)
                notes.append(f"{number} questions of the tasks {', '.join(tasks)} are refused: {why}")
        places = self._places([item.video for item in kept if isinstance(item, RawQuestion)])
        return collect(kept, places, cut=self.cut), tuple(notes), places

    def _check_tasks(self, counts: Mapping[str, int]) -> None:
        allowed = sorted(set(counts) - set(self.refused))
        for name in ("tasks", "lasting"):
            for task in getattr(self, name):
                if task in self.refused:
                    raise SettingError(f"data.{name}", task, allowed, f"It is refused: {self.refused[task]}.")
                if task not in counts:
                    raise SettingError(f"data.{name}", task, allowed, did_you_mean(task, allowed))

    def _places(self, names: list[str]) -> _Places:
        if self.videos is None:
            return _Places(self.annotations.parent, self.replace, self.strip or 0, True)
        dropped = self.strip
        if dropped is None:
            renamed = (PurePosixPath(_Places(Path(), self.replace, 0, False).rename(name)) for name in names)
            folders = {str(path.parent) for path in renamed if path.is_absolute()}
            dropped = len(PurePosixPath(os.path.commonpath(folders)).parts) - 1 if folders else 0
        return _Places(self.videos, self.replace, dropped, self.strip is not None)

    @functools.cached_property
    def _clips(self) -> tuple[Clip, ...]:
        reading, notes, places = self._read
        if not reading.clips:
            raise InputError(f"{self.annotations}: no question in it that can be asked")
        for note in notes:
            _logger.warning("%s: %s", self.annotations, note)
        if (left := reading.questions - reading.asked) or reading.broken:
            what = f"{left} of {reading.questions} questions and {reading.broken} broken entries"
            _logger.warning("%s: %s are left out; hermes validate lists them", self.annotations, what)
        there = {clip.video for clip in reading.clips if _exists(clip.video)}
        gone = {clip.video for clip in reading.clips} - there
        if elsewhere := [video for video in sorted(there) if not self._may_open(video, places)]:
            named = f"{elsewhere[0]} (in the file: {reading.named[elsewhere[0]]!r})"
            number = f"{len(elsewhere)} of {len(reading.named)} videos lie outside of {places.folder}"
            raise InputError(f"{self.annotations}: {number}, such as {named}. data.outside=true opens them")
        if gone and (self.missing == "error" or all(clip.video in gone for clip in reading.clips)):
            raise InputError(self._say_missing(sorted(gone), reading, places))
        if gone:
            _logger.warning("%s: %d missing videos are left out", self.annotations, len(gone))
        # Their places stay, so that a run goes on where it was when they have come.
        return tuple(
            dataclasses.replace(clip, questions=()) if clip.video in gone else clip for clip in reading.clips
        )

    def _may_open(self, video: str, places: _Places) -> bool:
        return self.outside or lies_in(video, places.folder)

    def _say_missing(self, gone: list[str], reading: Reading, places: _Places) -> str:
        number = f"{len(gone)} of {len({clip.video for clip in reading.clips})} videos"
        named = f"in the file: {reading.named[gone[0]]!r}; data.strip is {places.dropped}"
        hint = "Set data.videos, data.strip or data.replace, or data.missing=skip; hermes validate lists them"
        return f"{number} of {self.annotations} are missing, such as {gone[0]} ({named}). {hint}"

    def __len__(self) -> int:
        return len(self._clips)

    def clip(self, index: int) -> Clip:
        """One video of the file, or one part of it that is streamed."""
        return self._clips[index]

    def holds(self, index: int, question: TimedQuestion) -> float | None:
        """Until when its answer is right: as the annotations say, or to the end for a lasting task."""
        return math.inf if question.task in self.lasting else super().holds(index, question)

    def fingerprint(self) -> str:
        """A hash of the annotation file, or of the files of its folder."""
        digest = hashlib.sha256()
        inside = (path for path in self.annotations.rglob("*") if path.is_file())
        for path in sorted(inside) if self.annotations.is_dir() else [self.annotations]:
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def frames(self, index: int, video: VideoConfig, fps: float) -> AbstractContextManager[Iterator[Frame]]:
        """The frames of its video, from the clip's start to its end."""
        return video_frames(self._clips[index], video, fps, self.source_fps)

    def survey(self, watcher: Callable[[int, int], None] | None = None) -> Survey:
        """Read the whole file, and open every video."""
        reading, notes, places = self._read
        problems = list(reading.problems)
        by_video: dict[str, list[Clip]] = {}
        for clip in reading.clips:
            by_video.setdefault(clip.video, []).append(clip)
        for done, (video, clips) in enumerate(by_video.items(), start=1):
            problems += self._look_at(video, clips, reading.named[video], places)
            if watcher is not None:
                watcher(done, len(by_video))
        if reading.named:
            path, named = next(iter(reading.named.items()))
            notes = (f"paths: {named} is looked for as {path} (data.strip={places.dropped})", *notes)
        counts = (len(reading.named), len(reading.clips), reading.questions, reading.asked)
        return Survey(*counts, tuple(problems), notes)

    def _look_at(self, video: str, clips: list[Clip], named: str, places: _Places) -> Iterator[Problem]:
        if not _exists(video):
            yield Problem(video, f"there is none; in the file: {named}", "missing videos")
            return
        if not self._may_open(video, places):
            what = f"it lies outside of {places.folder} (in the file: {named}); data.outside=true opens it"
            yield Problem(video, what, "videos outside")
            return
        try:
            with open_source(video, source_fps=clips[0].source_fps or self.source_fps) as source:
                # A header that goes so far is taken at its word: only beyond it the file is read.
                far = source.declared is not None and _last(clips) <= source.declared + ROUNDING
                end = None if far else source.duration
        except InputError as error:
            yield Problem(video, str(error).removeprefix(f"{video}: "), "unreadable videos")
            return
        if end is None:
            return
        for clip in clips:
            times = [question.time for question in clip.questions if question.time is not None]
            last = _last([clip])
            if last > end + ROUNDING:
                late = sum(time > end + ROUNDING for time in times)
                what = f"it ends at {end:.1f} s, the annotations at {last:g} s ({late} questions later)"
                yield Problem(video, what, "bad times", clip.start >= end)


def _last(clips: list[Clip]) -> float:
    """The last second that is streamed, or asked at."""
    times = [question.time or 0.0 for clip in clips for question in clip.questions]
    return max([*times, *(max(clip.start, clip.end or 0.0) for clip in clips)], default=0.0)


def _exists(video: str) -> bool:
    try:
        return Path(video).exists()
    except (OSError, ValueError):
        # A name that no system can have.
        return False


@dataclass(frozen=True)
class _Places:
    """Where the videos of an annotation file are."""

    folder: Path
    replaced: Mapping[str, str]
    dropped: int
    relative_too: bool

    def __call__(self, named: str) -> str:
        path = PurePosixPath(self.rename(named))
        parts = path.parts[1:] if path.is_absolute() else path.parts
        if self.dropped and (path.is_absolute() or self.relative_too):
            path = PurePosixPath(*parts[min(self.dropped, len(parts) - 1) :])
        return str(self.folder / path)

    def rename(self, named: str) -> str:
        """The name after ``data.replace``."""
        for pattern, by in self.replaced.items():
            named = re.sub(pattern, by, named)
        return named
