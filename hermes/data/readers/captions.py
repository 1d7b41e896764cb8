"""Streams of text with questions: a folder of caption files, and their questions beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hermes.config import setting
from hermes.data.annotated import Annotated, _Places
from hermes.data.benchmark import Benchmark, Survey
from hermes.data.clips import Clip, Problem
from hermes.data.entries import RawQuestion
from hermes.data.scenes import KINDS, MOST_CAPTIONS, SPLITS, VERSION, Tale, tale
from hermes.dialogue.choices import MOST_CHOICES
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.reading import fault, loads, read_lines, short
from hermes.video import Caption, Frame, VideoConfig

__all__ = ["Captions"]

_ENDING = ".questions.jsonl"
_MOST = 100_000
_FIELDS = ("question", "time", "choices", "answer", "task", "id")


@dataclass
class Captions(Annotated):
    """Captions for text models: scenes made up by rule, or files of a folder.

    Without a folder: streams of one caption a second, in scenes of a few seconds whose words do not come
    again (:mod:`hermes.data.scenes`), asked about now, about the past and about its order. The answer's
    beginning is given, and the likeliest option to follow is chosen, which a small decoder can do. Source:
    this project.

    In a folder: ``film.srt`` or ``film.jsonl``, and ``film.questions.jsonl``. A line of questions is an
    object with ``question``, ``answer`` and, where they apply, ``time`` (when it is asked, s; by default at
    the end), ``choices``, ``task``, ``id``, and ``lead``, with which the answer begins.

    Raises:
        InputError: no such folder, no question in it, or missing captions.
        SettingError: a wrong setting.
    """

    # The base always reads a file; here it is not asked where there is none.
    annotations: Path | None = setting(None, help="the folder; default: scenes made up")  # type: ignore[assignment]
    split: str = setting("test", help="of scenes: of their seeds", choices=SPLITS, later=True)
    streams: int = setting(40, help="of scenes: how many", ge=1, le=_MOST, later=True)
    length: int = setting(
        64, help="of scenes: captions a stream, one a second", unit="s", ge=16, le=MOST_CAPTIONS, later=True
    )
    questions: int = setting(25, help="of scenes: a stream, at most", ge=1, le=1000, later=True)
    kinds: list[str] = setting([], help="of scenes: kinds to ask; all by default", later=True)
    options: int = setting(20, help="of scenes: options of a question", ge=2, le=MOST_CHOICES, later=True)
    seed: int = setting(0, help="of scenes: of the series", ge=0, later=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.kinds:
            if kind not in KINDS:
                raise SettingError("kinds", kind, KINDS, did_you_mean(kind, KINDS))

    @property
    def made(self) -> bool:
        """Whether the captions are made up."""
        return self.annotations is None

    def tale(self, index: int) -> Tale:
        """Stream ``index`` of those that are made up, with its scenes; always the same."""
        if not 0 <= index < self.streams:
            raise IndexError(index)
        asked = (self.length, self.questions, self.kinds, self.options)
        return tale(self.split, self.seed, index, *asked)

    def __len__(self) -> int:
        return self.streams if self.made else super().__len__()

    def clip(self, index: int) -> Clip:
        """The questions of a stream or a file."""
        return self.tale(index).clip if self.made else super().clip(index)

    def fingerprint(self) -> str:
        """The version of the scenes, or a hash of the folder."""
        return VERSION if self.made else super().fingerprint()

    def frames(self, index: int, video: VideoConfig, fps: float) -> AbstractContextManager[Iterator[Frame]]:
        """The captions of a stream or a file, each at its time, as far as ``video.start`` and ``end`` go.

        Raises:
            InputError: there is none from start to end.
        """
        if not self.made:
            return super().frames(index, video, fps)
        end = math.inf if video.end is None else video.end
        told = [
            (time, text) for time, text in enumerate(self.tale(index).captions) if video.start <= time < end
        ]
        if not told:
            raise InputError(f"no caption from {video.start:g} s to the end; there are {self.length}")
        return nullcontext(Caption(float(time), at, text=text) for at, (time, text) in enumerate(told))

    def survey(self, watcher: Callable[[int, int], None] | None = None) -> Survey:
        """Count streams and questions, or read the folder and open every file."""
        return Benchmark.survey(self, watcher) if self.made else super().survey(watcher)

    def entries(self) -> Iterator[RawQuestion | Problem]:
        """Every question of every file; a problem for what cannot be read.

        Raises:
            InputError: no such folder.
        """
        folder = self.annotations
        if folder is None or not folder.is_dir():
            raise InputError(f"{folder}: needed: a folder of captions and NAME{_ENDING} beside them")
        for path in sorted(folder.glob(f"*{_ENDING}")):
            name = path.name.removesuffix(_ENDING)
            files = [(self.videos or folder) / f"{name}{ending}" for ending in (".srt", ".jsonl")]
            shown = next((file for file in files if file.exists()), files[0])
            yield from _questions(path, name, shown.name)

    def _places(self, names: list[str]) -> _Places:
        if self.videos is None and self.annotations is not None:
            return _Places(self.annotations, self.replace, self.strip or 0, True)
        return super()._places(names)


def _questions(path: Path, name: str, video: str) -> Iterator[RawQuestion | Problem]:
    try:
        for number, line in read_lines(path):
            where = f"{path.name}, line {number}"
            content = loads(line, where)
            said = fault(content)
            if said is None and (not isinstance(content, dict) or "question" not in content):
                said = f"{short(content)}; needed: an object with 'question'"
            if said is not None:
                yield Problem(where, said)
                continue
            yield RawQuestion.of(
                where=where,
                video=video,
                video_id=name,
                question=content["question"],
                answer=content.get("answer"),
                options=content.get("choices") or (),
                time=content.get("time"),
                task=content.get("task"),
                id=content.get("id"),
                extra={key: value for key, value in content.items() if key not in _FIELDS},
            )
    except InputError as error:
        yield Problem(path.name, str(error))
