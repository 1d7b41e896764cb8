"""What an evaluation reads: videos, each with questions at times of it."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hermes.config import Part, setting
from hermes.data.annotations import Clip, read_annotations
from hermes.errors import InputError
from hermes.settings import VideoConfig
from hermes.video import Frame, open_source

__all__ = ["Annotated", "Benchmark"]


class Benchmark(Part, ABC):
    """A series of videos with their questions (setting ``data``).

    Source: this project. Subclass it as a dataclass whose fields are the settings (``data.*``).
    """

    kind: ClassVar[str] = "data"

    @abstractmethod
    def __len__(self) -> int:
        """Videos in the series."""

    @abstractmethod
    def clip(self, index: int) -> Clip:
        """The questions of one video, in order of time; the same at every call."""

    @abstractmethod
    def frames(self, index: int, video: VideoConfig, fps: float) -> AbstractContextManager[Iterator[Frame]]:
        """The frames of one video, sampled at ``fps``; resources are freed when the context ends."""


@contextmanager
def video_frames(path: str | Path, video: VideoConfig, fps: float) -> Iterator[Iterator[Frame]]:
    """The frames of a file, folder or array, as ``video.*`` says (this project)."""
    source = open_source(str(path), fps=fps, start=video.start, end=video.end, max_side=video.max_side)
    with closing(source):
        yield iter(source)


@dataclass
class Annotated(Benchmark):
    """Video files and an annotation file in the form of :func:`hermes.data.annotations.read_annotations`.

    Source: this project.

    Raises:
        InputError: a file that cannot be read, or no question in it.
    """

    annotations: Path = setting(help="the annotation file (JSON)")
    videos: Path | None = setting(None, help="folder its video paths start from; default: its own")

    @functools.cached_property
    def _clips(self) -> list[Clip]:
        clips = read_annotations(self.annotations, self.videos)
        if not any(clip.questions for clip in clips):
            raise InputError(f"{self.annotations}: no question in it")
        return clips

    def __len__(self) -> int:
        return len(self._clips)

    def clip(self, index: int) -> Clip:
        """Entry ``index`` of the file."""
        return self._clips[index]

    def frames(self, index: int, video: VideoConfig, fps: float) -> AbstractContextManager[Iterator[Frame]]:
        """The frames of its video."""
        return video_frames(self._clips[index].video, video, fps)
