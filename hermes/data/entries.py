"""Questions as annotation files have them, checked and gathered by video; no fault stops the reading."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from hermes.data.clips import Clip, Problem, TimedQuestion
from hermes.dialogue.choices import MOST_CHOICES, letters, option_meant, own_letters, without_letter
from hermes.reading import short

__all__ = ["RawQuestion", "Reading", "collect", "option_of", "seconds", "text_of", "unlabelled"]

# Times in annotations are often whole seconds of a video that is a fraction shorter.
ROUNDING = 1.0
_MOST_SECONDS = 1e9


@dataclass(frozen=True)
class RawQuestion:
    """One question as a file has it, its fields named alike for every format, nothing checked yet.

    Attributes:
        where: of the file: ``"video 3, question 0"``.
        video: the path or name that the file gives.
        answer: text, letter or index from 0, as ``form`` says; None or empty where the file has none.
        time: when it is asked: seconds or ``"h:mm:ss"``; None: at the end.
        start, end: bounds of the clip within the video, likewise.
        evidence: two such times.
        id: of the question.
        faults: what should be text and is neither that nor a number.
    """

    where: str
    video: str
    question: str
    answer: Any = None
    options: Any = ()
    form: Literal["text", "letter", "index"] = "text"
    time: Any = None
    start: Any = None
    end: Any = None
    evidence: Any = None
    duration: Any = None
    source_fps: Any = None
    task: str = ""
    category: str = ""
    id: str = ""
    video_id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @classmethod
    def of(cls, where: str, **given: Any) -> RawQuestion:
        """An entry from values of a file, whatever they are: of texts, what is none is told in ``faults``."""
        faults = []
        for name in _TEXTS & given.keys():
            read = text_of(given[name])
            if read is None:
                faults.append(f"{name!r} is {short(given[name])}; needed: text")
            given[name] = read or ""
        return cls(where=where, **given, faults=tuple(sorted(faults)))


_TEXTS = frozenset({"video", "question", "task", "category", "id", "video_id"})


def text_of(value: Any) -> str | None:
    """A text, or a number as one; empty for None, and None for everything else.

    >>> text_of(7), text_of(None), text_of(["a"])
    ('7', '', None)
    """
    if value is None:
        return ""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if isinstance(value, str) else str(value) if number else None


@dataclass(frozen=True)
class Reading:
    """What a file holds.

    Attributes:
        clips: with the questions that can be asked.
        questions: how many were read; ``asked`` of them can be asked.
        broken: entries that are no questions.
        named: of each path of a video, the name that the file has.
    """

    clips: tuple[Clip, ...]
    questions: int
    asked: int
    broken: int
    problems: tuple[Problem, ...]
    named: Mapping[str, str]


def seconds(value: Any) -> float | None:
    """A time in seconds from a number or ``"h:mm:ss"``; None if it is neither, or beyond thirty years.

    >>> seconds(3), seconds("0:02:41.5"), seconds("soon"), seconds(True)
    (3.0, 161.5, None, None)
    """
    if isinstance(value, str):
        parts = value.strip().split(":")
        if not all(re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]*)?", part) for part in parts) or len(parts) > 3:
            return None
        value = sum(float(part) * float(60**i) for i, part in enumerate(reversed(parts)))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # No whole number is too large to be compared; none of them that is turned into a float.
    return float(value) if -_MOST_SECONDS < value < _MOST_SECONDS else None


def unlabelled(options: Sequence[Any]) -> tuple[Any, ...]:
    """Options without their letters, if each begins with its own.

    >>> unlabelled(["A. red", "(B) blue"]), unlabelled(["A. red", "blue"])
    (('red', 'blue'), ('A. red', 'blue'))
    """
    if own_letters(options) != letters(len(options)):
        return tuple(options)
    return tuple(map(without_letter, options))


def option_of(answer: Any, options: Sequence[str], form: str = "text") -> str | None:
    """The option that an answer means, word for word; None if it means none, or more than one.

    Args:
        answer: as the file has it.
        options: of the question.
        form: what the file gives: ``"text"`` or ``"letter"`` (either is tried after the other), or
            ``"index"`` from 0. See :func:`hermes.dialogue.choices.option_meant`.

    >>> option_of("B", ["B", "A"], "letter"), option_of("B", ["B", "A"], "text")
    ('A', 'B')
    >>> option_of(1, ["red", "blue"], "index"), option_of("(B) blue", ["red", "blue"])
    ('blue', 'blue')
    >>> option_of("green", ["red", "blue"]), option_of("B. green", ["red", "blue"])
    (None, None)
    """
    if form == "index":
        index = int(answer) if re.fullmatch(r"\s*\d{1,9}\s*", str(answer)) else -1
        return options[index] if 0 <= index < len(options) else None
    if not isinstance(answer, str):
        return None
    return option_meant(answer, options, letter_first=form == "letter")


def collect(
    items: Iterable[RawQuestion | Problem], place: Callable[[str], str], *, cut: bool = False
) -> Reading:
    """Check every entry and gather the questions by clip, each in order of time.

    Questions belong together if path, bounds and frame rate agree.

    Args:
        items: of the file; a problem stands for an entry that could not be read.
        place: the path of a video from the name that the file has.
        cut: videos hold the clips alone, so that times count from the clip's start.
    """
    groups: dict[tuple[Any, ...], list[TimedQuestion]] = {}
    about: dict[tuple[Any, ...], Clip] = {}
    problems: list[Problem] = []
    named: dict[str, str] = {}
    seen = _Seen()
    count = broken = 0
    for item in items:
        if isinstance(item, Problem):
            problems.append(item)
            broken += 1
            continue
        count += 1
        path = place(item.video)
        named.setdefault(path, item.video)
        checked = _Checked(item, cut, seen.bounds.setdefault(path, (item.start, item.end)))
        clip = checked.clip(path)
        key = (path, clip.start, clip.end, clip.source_fps)
        about.setdefault(key, clip)
        group = groups.setdefault(key, [])
        problems += [*checked.problems, *seen.again(item, key, checked.question)]
        if checked.question is not None:
            group.append(checked.question)
    for group in groups.values():
        group.sort(key=lambda question: math.inf if question.time is None else question.time)
    clips = [replace(about[key], questions=tuple(group)) for key, group in groups.items() if group]
    asked = sum(len(clip.questions) for clip in clips)
    return Reading(tuple(clips), count, asked, broken, tuple(problems), named)


class _Seen:
    """What came before: ids and questions that come again."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.videos: dict[str, str] = {}
        self.questions: dict[tuple[Any, ...], str] = {}
        self.bounds: dict[str, tuple[Any, Any]] = {}

    def again(
        self, entry: RawQuestion, key: tuple[Any, ...], question: TimedQuestion | None
    ) -> Iterator[Problem]:
        where = _where(entry)
        if entry.id and (first := self.ids.setdefault(entry.id, where)) is not where:
            yield Problem(where, f"the id {entry.id!r} is also that of {first}", "duplicate ids", False)
        if entry.video_id and (other := self.videos.setdefault(entry.video_id, entry.video)) != entry.video:
            what = f"the video id {entry.video_id!r} is also that of {other}"
            yield Problem(where, what, "duplicate ids", False)
        if question is not None:
            same = (key, question.question, question.choices, question.time)
            if (first := self.questions.setdefault(same, where)) is not where:
                what = f"{question.question!r} is asked at the same time by {first}"
                yield Problem(where, what, "questions asked twice", False)


def _where(entry: RawQuestion) -> str:
    return f"{entry.where} ({entry.video.rstrip('/').rpartition('/')[2]})"


def _is_share(value: Any) -> bool:
    return not isinstance(value, str) and (share := seconds(value)) is not None and 0 <= share <= 1


# Other fields that are read, and what they must be.
_READ: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "chance": (_is_share, "a number from 0 to 1"),
        "open_ended": (lambda value: isinstance(value, bool), "true or false"),
        "valid_until": (lambda value: seconds(value) is not None, "seconds or h:mm:ss"),
        "kind": (lambda value: isinstance(value, str), "text"),
    }
)


class _Checked:
    """One entry with its values checked: the question, if it can be asked, and what is wrong."""

    def __init__(self, entry: RawQuestion, cut: bool, first_bounds: tuple[Any, Any]) -> None:
        self.entry = entry
        self.problems: list[Problem] = []
        self.fits = True
        for fault in entry.faults:
            self._bad(fault)
        if not entry.video.strip():
            self._bad("the name of the video is empty")
        self.duration = seconds(entry.duration)
        if entry.duration is not None and (self.duration is None or self.duration < 0):
            self._bad(
                f"'duration' is {short(entry.duration)}; needed: seconds or h:mm:ss", "bad times", False
            )
            self.duration = None
        self.source_fps = seconds(entry.source_fps)
        if entry.source_fps is not None and not (self.source_fps or 0) > 0:
            self._bad(f"'fps' is {short(entry.source_fps)}; needed: frames a second", "bad times")
        start = self._time("start", entry.start)
        self.start, self.end = start or 0.0, self._time("end", entry.end)
        if self.end is not None and self.end <= self.start:
            self._bad(f"the clip ends at {self.end:g} s, before it starts at {self.start:g} s", "bad times")
        time = self._asked()
        evidence = self._evidence()
        options = self._options()
        answer = self._answer(options)
        if not entry.question.strip():
            self._bad("the question is empty")
        if cut and first_bounds != (entry.start, entry.end):
            self._bad("a video that is cut has one clip, and this one's bounds are others", "bad times")
        extra = self._extra()
        if cut:
            time = None if time is None else time - self.start
            evidence = None if evidence is None else (evidence[0] - self.start, evidence[1] - self.start)
            if (until := seconds(extra.get("valid_until"))) is not None:
                extra["valid_until"] = until - self.start
            whole = self.end if self.end is not None else self.duration
            self.duration = None if whole is None else whole - self.start
            self.start, self.end = 0.0, None
        if entry.id:
            extra["id"] = entry.id
        if entry.category:
            extra["category"] = entry.category
        if options and answer:
            # Options that read the same are right together.
            extra["chance"] = options.count(answer) / len(options)
        made = TimedQuestion(entry.question, answer, options, time, entry.task, evidence, extra)
        self.question = made if self.fits else None

    def clip(self, path: str) -> Clip:
        return Clip(
            path, (), self.entry.video_id, self.duration, self.start, self.end, self.source_fps or None
        )

    def _bad(self, what: str, kind: str = "broken questions", left_out: bool = True) -> None:
        self.problems.append(Problem(_where(self.entry), what, kind, left_out))
        self.fits = self.fits and not left_out

    def _extra(self) -> dict[str, Any]:
        """Every other field; those that an evaluation reads are of the right type, or left out."""
        extra = dict(self.entry.extra)
        for name, (fits, needed) in _READ.items():
            if (value := extra.get(name)) is not None and not fits(value):
                self._bad(f"{name!r} is {short(extra.pop(name))}; needed: {needed}")
        return extra

    def _time(self, name: str, value: Any) -> float | None:
        if value is None:
            return None
        time = seconds(value)
        if time is None:
            self._bad(f"{name!r} is {short(value)}; needed: seconds or h:mm:ss", "bad times")
        elif time < 0:
            self._bad(f"{name!r} is {time:g} s, before the video begins", "bad times")
        return time

    def _asked(self) -> float | None:
        time = self._time("end_time", self.entry.time)
        if time is None or time < 0:
            return time
        over = self.end if self.end is not None else self.duration
        if time <= self.start:
            self._bad(f"asked at {time:g} s: nothing was shown since {self.start:g} s", "bad times")
        elif over is not None and time > over + ROUNDING:
            self._bad(f"asked at {time:g} s, after the end at {over:g} s", "bad times", False)
        return time

    def _evidence(self) -> tuple[float, float] | None:
        given = self.entry.evidence
        if given is None:
            return None
        pair = [seconds(value) for value in given] if isinstance(given, (list, tuple)) else []
        first, last = pair if len(pair) == 2 else (None, None)
        if first is None or last is None or first < 0 or last < first:
            self._bad(f"the evidence is from and to {short(given)}", "bad times", False)
            return None
        return first, last

    def _options(self) -> tuple[str, ...]:
        given = () if self.entry.options is None else self.entry.options
        options = tuple(given) if isinstance(given, (list, tuple)) else None
        if options is None or not all(isinstance(option, str) and option.strip() for option in options):
            self._bad(f"the options are {short(given)}; needed: a list of texts", "bad options")
            return ()
        if len(options) == 1 or len(options) > MOST_CHOICES:
            what = "option, which leaves no choice" if len(options) == 1 else "options, more than letters"
            self._bad(f"{len(options)} {what}", "bad options")
        for option in dict.fromkeys(options):
            if (times := options.count(option)) > 1:
                self._bad(f"{option!r} comes {times} times", "duplicate options", False)
        return options

    def _answer(self, options: tuple[str, ...]) -> str:
        given = self.entry.answer
        if given is None or given == "":
            return ""
        if not options:
            read = text_of(given)
            if read is None:
                self._bad(f"the answer is {short(given)}; needed: text")
            return read or ""
        found = option_of(given, options, self.entry.form)
        if found is None:
            shown = ", ".join(options)
            said = repr(given) if isinstance(given, str) else short(given)
            self._bad(f"the answer {said} is none of the choices: {shown}", "answers not among the options")
        return found or ""
