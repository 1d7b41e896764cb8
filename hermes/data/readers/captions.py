"""Streams of text with questions: a folder of caption files, and their questions beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hermes.config import setting
from hermes.data.annotated import Annotated, _Places
from hermes.data.clips import Problem
from hermes.data.entries import RawQuestion
from hermes.errors import InputError
from hermes.reading import fault, loads, read_lines, short

__all__ = ["Captions"]

_ENDING = ".questions.jsonl"
_FIELDS = ("question", "time", "choices", "answer", "task", "id")


@dataclass
class Captions(Annotated):
    """A folder of captions, for text models: ``film.srt`` or ``film.jsonl``, and ``film.questions.jsonl``.

    A line of questions is an object with ``question``, ``answer`` and, where they apply, ``time`` (when it is
    asked, s; by default at the end), ``choices``, ``task`` and ``id``.

    Raises:
        InputError: no folder, no question in it, or missing captions.
        SettingError: a wrong setting.
    """

    annotations: Path = setting(help="the folder")

    def entries(self) -> Iterator[RawQuestion | Problem]:
        """Every question of every file; a problem for what cannot be read.

        Raises:
            InputError: no such folder.
        """
        if not self.annotations.is_dir():
            raise InputError(
                f"{self.annotations}: needed: a folder of captions and NAME{_ENDING} beside them"
            )
        for path in sorted(self.annotations.glob(f"*{_ENDING}")):
            name = path.name.removesuffix(_ENDING)
            files = [(self.videos or self.annotations) / f"{name}{ending}" for ending in (".srt", ".jsonl")]
            shown = next((file for file in files if file.exists()), files[0])
            yield from _questions(path, name, shown.name)

    def _places(self, names: list[str]) -> _Places:
        if self.videos is None:
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
