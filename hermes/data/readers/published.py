"""What the readers of benchmarks have in common: two formats, told apart by the file itself."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from hermes.config import setting
from hermes.data.annotated import Annotated
from hermes.data.annotations import is_shared, shared_entries
from hermes.data.clips import Problem
from hermes.data.entries import RawQuestion, text_of, unlabelled
from hermes.data.tables import load
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.reading import fault, short

__all__ = ["Published", "listed", "objects"]

# Characters of a list of options written as text; more could exhaust the parser.
_MOST_OPTIONS = 20_000
_FORMATS = ("auto", "shared", "published")


@dataclass
class Published(Annotated):
    """A benchmark whose annotations come in the shared form or in its own (settings ``data.*``).

    Subclass it with ``label`` and ``own_entries``; what both formats lack is added in ``completed``.

    Raises:
        InputError: a file that cannot be read, no question in it, or missing videos.
        SettingError: a wrong setting.
    """

    # What questions without a task count as.
    label: ClassVar[str]

    format: str = setting(
        "auto",
        help="of the annotations: the shared form (that of the method's release) or as published; auto: "
        "as the file looks",
        choices=_FORMATS,
    )
    suffix: str = setting(".mp4", help="of videos that the published annotations name by an id alone")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in _FORMATS:
            raise SettingError("format", self.format, _FORMATS, did_you_mean(self.format, _FORMATS))

    def content(self) -> Any:
        """What the annotation file holds."""
        return load(self.annotations)

    @abstractmethod
    def own_entries(self, content: Any) -> Iterator[RawQuestion | Problem]:
        """The questions of a file as the benchmark publishes it."""

    def completed(self, entry: RawQuestion) -> RawQuestion:
        """The entry with the names of task and category that the file does not have."""
        return entry if entry.task else replace(entry, task=self.label)

    def entries(self) -> Iterator[RawQuestion | Problem]:
        """Every question of the file, unchecked; a problem for what cannot be read."""
        content = self.content()
        shared = is_shared(content) if self.format == "auto" else self.format == "shared"
        found = shared_entries(content, self.annotations) if shared else self.own_entries(content)
        for item in found:
            yield self.completed(item) if isinstance(item, RawQuestion) else item

    def objects(self, content: Any, *needed: str) -> Iterator[tuple[str, dict[str, Any]] | Problem]:
        """The rows of a published file, see :func:`objects`.

        Raises:
            InputError: no list, or an empty one.
        """
        if not isinstance(content, list) or not content:
            keys = ", ".join(map(repr, needed))
            raise InputError(
                f"{self.annotations}: needed: a list of objects with {keys}, or of videos with 'video_path' "
                "and 'conversations'"
            )
        return objects(content, "entry", *needed)


def objects(rows: Any, name: str, *needed: str) -> Iterator[tuple[str, dict[str, Any]] | Problem]:
    """Objects that have all needed keys, each with where it is; a problem for every other.

    >>> list(objects([{"a": 1}, 2], "entry", "a"))[0]
    ('entry 0', {'a': 1})
    >>> list(objects([{"a": 1}, 2], "entry", "a"))[1].what
    "needed: an object with 'a'"
    """
    for i, row in enumerate(rows if isinstance(rows, list) else [rows]):
        if not isinstance(row, dict) or any(row.get(key) is None for key in needed):
            yield Problem(f"{name} {i}", f"needed: an object with {', '.join(map(repr, needed))}")
        elif (what := _fault(row)) is not None:
            yield Problem(f"{name} {i}", what)
        else:
            yield f"{name} {i}", row


# What names something, in whichever format.
_NAMES = (
    "video",
    "video_id",
    "videoID",
    "video_path",
    "clip",
    "original_video",
    "url",
    "q_uid",
    "question_id",
)


def _fault(row: dict[str, Any]) -> str | None:
    wrong = [name for name in _NAMES if text_of(row.get(name)) is None]
    if wrong:
        return f"{wrong[0]!r} is {short(row[wrong[0]])}; needed: text"
    # A video's questions are looked at one by one.
    return fault({key: value for key, value in row.items() if key != "questions"})


def listed(options: Any) -> Any:
    """Options without their letters; a table has the list as text, as Python writes it.

    >>> listed("['A. red', 'B. blue']"), listed("none")
    (('red', 'blue'), 'none')
    """
    if isinstance(options, str) and len(options) <= _MOST_OPTIONS:
        try:
            options = ast.literal_eval(options.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return options
    return unlabelled(options) if isinstance(options, list) else options
