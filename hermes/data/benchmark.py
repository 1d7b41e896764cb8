"""What an evaluation reads: videos, each with questions at times of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

from hermes.config import Part
from hermes.data.clips import Clip, Problem, TimedQuestion
from hermes.data.entries import seconds
from hermes.video import Frame, VideoConfig, open_source

__all__ = ["Benchmark", "Survey", "video_frames"]


@dataclass(frozen=True)
class Survey:
    """What a benchmark holds, and what is wrong with it.

    Attributes:
        videos: files, or streams that have none.
        clips: streams; more than videos where several parts of one are streamed.
        questions: read; ``asked`` of them can be asked.
        notes: what is as it should be, but worth saying.
    """

    videos: int
    clips: int
    questions: int
    asked: int
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


class Benchmark(Part, ABC):
    """A series of videos with their questions (setting ``data``).

    Subclass it as a dataclass whose fields are the settings (``data.*``).
    """

    kind: ClassVar[str] = "data"
    # What the benchmark itself reports: accuracy over questions, mean over tasks, or mean over categories.
    average: ClassVar[Literal["questions", "tasks", "categories"]] = "questions"

    @abstractmethod
    def __len__(self) -> int:
        """Videos in the series."""

    @abstractmethod
    def clip(self, index: int) -> Clip:
        """The questions of one video, in order of time; the same at every call."""

    @abstractmethod
    def frames(self, index: int, video: VideoConfig, fps: float) -> AbstractContextManager[Iterator[Frame]]:
        """The frames of one video, sampled at ``fps``; resources are freed when the context ends."""

    def holds(self, index: int, question: TimedQuestion) -> float | None:
        """Until when (s, exclusive) a question of clip ``index`` keeps its answer; None: nobody says.

        By default what the annotations say, ``valid_until``.
        """
        return seconds(question.extra.get("valid_until"))

    def fingerprint(self) -> str:
        """Tells the questions of one version from another's, where settings alone do not; may be empty."""
        return ""

    def survey(self, watcher: Callable[[int, int], None] | None = None) -> Survey:
        """Count everything and look for faults, without a model.

        Args:
            watcher: called with videos looked at and videos in all.
        """
        questions = sum(len(self.clip(index).questions) for index in range(len(self)))
        return Survey(len(self), len(self), questions, questions)


@contextmanager
def video_frames(
    clip: Clip, video: VideoConfig, fps: float, source_fps: float | None = None
) -> Iterator[Iterator[Frame]]:
    """The frames of a clip's file, folder or array, as ``video.*`` says.

    Args:
        clip: whose bounds apply as well as those of ``video``.
        video: how frames are read.
        fps: of sampling.
        source_fps: of a folder or array, where the clip does not say.
    """
    start = max(video.start, clip.start)
    end = min((end for end in (video.end, clip.end) if end is not None), default=None)
    rate = clip.source_fps or source_fps
    source = open_source(clip.video, fps=fps, start=start, end=end, source_fps=rate, **video.reading())
    with closing(source):
        yield iter(source)
