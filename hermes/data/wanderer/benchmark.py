"""Wanderer as a benchmark: streams with their questions, as frames or as video files with annotations."""

from __future__ import annotations

import functools
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from hermes.config import resolved_yaml, setting
from hermes.data.annotations import read_annotations, write_annotations
from hermes.data.benchmark import Benchmark, Survey, video_frames
from hermes.data.clips import Clip, TimedQuestion
from hermes.data.wanderer.questions import KINDS, Question, questions
from hermes.data.wanderer.rendering import frames
from hermes.data.wanderer.truth import holds_until
from hermes.data.wanderer.world import SPLITS, Split, Stream, WorldConfig, sample_stream
from hermes.errors import SettingError, did_you_mean
from hermes.reading import read_text
from hermes.video import Frame, VideoConfig, open_source, write_video

__all__ = ["Walk", "Wanderer", "write_wanderer"]

# Enlarged so that the codec's blocks and halved colours do not blur what is drawn.
_ENLARGED = 4
_ANNOTATIONS = "wanderer.json"
# More could not be gone through in any run; a slip of the hand would begin it.
_MOST: Mapping[str, int] = MappingProxyType(
    {"streams": 100_000, "questions": 10_000, "world.length": 1_000_000}
)


@dataclass
class Wanderer(Benchmark):
    """A synthetic stream benchmark without end (settings ``data.*`` of ``data=wanderer``).

    Its kinds mirror the categories of OVO-Bench (arXiv 2501.05510).

    Raises:
        SettingError: a wrong setting.
    """

    split: str = setting("test", help="of seeds, and of which object may stand where", choices=SPLITS)
    streams: int = setting(100, help="how many", ge=1)
    questions: int = setting(15, help="a stream, at most", ge=1)
    kinds: list[str] = setting([], help="kinds to ask; all by default")
    choices: float = setting(0.0, help="share of multiple-choice questions", ge=0, le=1)
    late: float = setting(0.5, help="questions come after this share of the stream", ge=0, lt=1)
    seed: int = setting(0, help="of the series", ge=0)
    files: Path | None = setting(
        None, help="folder: write the streams there as MP4 files, and read them back; default: as drawn"
    )
    world: WorldConfig = field(default_factory=WorldConfig, metadata={"help": "difficulty"})

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise SettingError("kinds", kind, KINDS, did_you_mean(kind, KINDS))
        if self.split not in SPLITS:
            raise SettingError("split", self.split, SPLITS, did_you_mean(self.split, SPLITS))
        given = {"streams": self.streams, "questions": self.questions, "world.length": self.world.length}
        for name, value in given.items():
            if value > _MOST[name]:
                raise SettingError(name, value, f"at most {_MOST[name]}")

    def __len__(self) -> int:
        return self.streams

    def __getitem__(self, index: int) -> Walk:
        """Stream ``index`` and its questions, always the same."""
        if not 0 <= index < self.streams:
            raise IndexError(index)
        split: Split = SPLITS[SPLITS.index(self.split)]
        stream = sample_stream(self.world, split, self.seed, index)
        rng = np.random.default_rng((SPLITS.index(split), self.seed, index, 1))
        asked = questions(stream, rng, self.questions, self.kinds, self.choices, self.late)
        return Walk(f"{split}_{self.seed}_{index:05d}", stream, tuple(asked), self.world)

    def clip(self, index: int) -> Clip:
        """The questions of stream ``index``; read from the annotation file where there are files."""
        walk = self[index]
        if self.files is None:
            return walk.clip("")
        # By name: a stream without any question may be missing in the file.
        return self._written.get(walk.name) or walk.clip(Path(self.files) / "videos" / f"{walk.name}.mp4")

    def frames(self, index: int, video: VideoConfig, fps: float) -> AbstractContextManager[Iterator[Frame]]:
        """Frames as they were drawn, one a second, or as ``video`` samples and scales them."""
        if self.files is not None:
            return video_frames(self.clip(index), video, fps)
        walk = self[index]
        if fps == 1.0 and video == replace(VideoConfig(), fps=video.fps):
            return nullcontext(walk.frames())
        images = np.stack([frame.image for frame in walk.frames()])
        return open_source(
            images, fps=fps, start=video.start, end=video.end, max_side=video.max_side, source_fps=1.0
        )

    def holds(self, index: int, question: TimedQuestion) -> float | None:
        """Until when a question's answer is right, as the walk goes on."""
        walk = self[index]
        same = (
            asked
            for asked in walk.questions
            if (asked.text, asked.time) == (question.question, question.time)
        )
        found = next(same, None)
        # A frame that changes the answer is seen from just after its second on, not a second later.
        return None if found is None else math.nextafter(holds_until(found, walk.stream) - 1, math.inf)

    def survey(self, watcher: Callable[[int, int], None] | None = None) -> Survey:
        """Count streams and questions; no file is written."""
        questions = 0
        for index in range(self.streams):
            questions += len(self[index].questions)
            if watcher is not None:
                watcher(index + 1, self.streams)
        return Survey(self.streams, self.streams, questions, questions)

    @functools.cached_property
    def _written(self) -> dict[str, Clip]:
        """The files of these settings, written if they are not there."""
        folder = Path(self.files or "")
        kept, wanted = folder / "settings.yaml", resolved_yaml(replace(self, files=None))
        if not kept.exists():
            # Aside first: an interruption leaves nothing half done, and of two processes one comes second.
            aside = folder.with_name(f"{folder.name}.part{os.getpid()}")
            write_wanderer(self, aside)
            (aside / kept.name).write_text(wanted, encoding="utf-8")
            try:
                aside.rename(folder)
            except OSError:
                shutil.rmtree(aside)
        if not kept.exists():
            raise SettingError(
                "data.files", str(folder), "a folder that is not there yet, or one of these streams"
            )
        if read_text(kept) != wanted:
            raise SettingError(
                "data.files", str(folder), "a new folder", f"It holds streams of other settings: {kept}."
            )
        return {clip.id: clip for clip in read_annotations(folder / _ANNOTATIONS)}


@dataclass(frozen=True)
class Walk:
    """One stream of the benchmark and its questions in order of time."""

    name: str
    stream: Stream
    questions: tuple[Question, ...]
    world: WorldConfig

    def frames(self) -> Iterator[Frame]:
        """Its frames as they were drawn, 32x32, one a second."""
        return frames(self.stream, self.world, seed=zlib.crc32(self.name.encode()))

    def clip(self, video: str | Path) -> Clip:
        """As an entry of an annotation file."""
        return Clip(
            str(video), tuple(_timed(q) for q in self.questions), self.name, float(self.stream.length)
        )


def _timed(question: Question) -> TimedQuestion:
    kind = KINDS[question.kind]
    start, end = question.evidence
    return TimedQuestion(
        question=question.text,
        answer=question.answer,
        choices=question.options,
        time=float(question.time),
        task=kind.task,
        evidence=(float(start), float(end)),
        extra={"kind": question.kind, "category": kind.category, "chance": question.chance},
    )


def write_wanderer(benchmark: Wanderer, folder: str | Path, *, crf: int = 16) -> Path:
    """Write streams as MP4 files of 128x128 pixels at 1 fps, and their annotations.

    Args:
        benchmark: the streams.
        folder: gets ``videos/*.mp4`` and ``wanderer.json``.
        crf: rate factor of the encoder; lower is better.

    Returns:
        The annotation file, for ``hermes.data.annotations.read_annotations``.
    """
    folder = Path(folder)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    clips = []
    for index in range(len(benchmark)):
        walk = benchmark[index]
        video = folder / "videos" / f"{walk.name}.mp4"
        block = np.ones((_ENLARGED, _ENLARGED, 1), np.uint8)
        write_video(video, (np.kron(frame.image, block) for frame in walk.frames()), fps=1, crf=crf)
        clips.append(walk.clip(video))
    path = folder / _ANNOTATIONS
    write_annotations(path, clips)
    return path
