"""Questions as annotation files have them, checked and gathered by video; no fault stops the reading."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hermes.data.clips import Clip, Problem, TimedQuestion
from hermes.dialogue.choices import MOST_CHOICES, lettered, letters

__all__ = ["RawQuestion", "Reading", "collect", "option_of", "seconds", "unlabelled"]

# Times in annotations are often whole seconds of a video that is a fraction shorter.
ROUNDING = 1.0
_LETTER = re.compile(r"\s*\(?([A-Z])\s*(?:[.):]+(.*))?", re.DOTALL)
_LABEL = re.compile(r"\s*\(?([A-Z])\s*[.):]\s*")


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
    """A time in seconds from a number or ``"h:mm:ss"``; None if it is neither.

    >>> seconds(3), seconds("0:02:41.5"), seconds("soon"), seconds(True)
    (3.0, 161.5, None, None)
    """
    if isinstance(value, str):
        parts = value.strip().split(":")
        if not all(re.fullmatch(r"\d+(\.\d*)?|-\d+(\.\d*)?", part) for part in parts) or len(parts) > 3:
            return None
        return sum(float(part) * float(60**i) for i, part in enumerate(reversed(parts)))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def unlabelled(options: Sequence[Any]) -> tuple[Any, ...]:
    """Options without their letters, if each begins with its own.

    >>> unlabelled(["A. red", "(B) blue"]), unlabelled(["A. red", "blue"])
    (('red', 'blue'), ('A. red', 'blue'))
    """
    found = [_LABEL.match(option) if isinstance(option, str) else None for option in options]
    if [match and match[1] for match in found] == letters(len(found)):
        return tuple(option[match.end() :] for option, match in zip(options, found, strict=True) if match)
    return tuple(options)


def option_of(answer: Any, options: Sequence[str], form: str = "text") -> str | None:
    """The option that an answer means, word for word; None if it means none.

    Args:
        answer: as the file has it.
        options: of the question.
        form: what the file gives: ``"text"`` or ``"letter"`` (either is tried after the other), or
            ``"index"`` from 0.

    >>> option_of("B", ["B", "A"], "letter"), option_of("B", ["B", "A"], "text")
    ('A', 'B')
    >>> option_of(1, ["red", "blue"], "index"), option_of("(B) blue", ["red", "blue"])
    ('blue', 'blue')
    >>> option_of("green", ["red", "blue"]), option_of("B. green", ["red", "blue"])
    (None, None)
    """
    if form == "index":
        index = int(answer) if re.fullmatch(r"\s*\d+\s*", str(answer)) else -1
        return options[index] if 0 <= index < len(options) else None
    if not isinstance(answer, str):
        return None
    stripped = answer.strip()
    texts = [option for option in options if option == answer or option.strip() == stripped]
    letter = _LETTER.fullmatch(answer)
    named = lettered(options).get(letter[1]) if letter else None
    by_letter = [] if named is None else [named]
    if letter and (said := (letter[2] or "").strip()):
        by_letter = [option for option in by_letter if option.strip() == said]
    found = by_letter + texts if form == "letter" else texts + by_letter
    return found[0] if found else None


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


class _Checked:
    """One entry with its values checked: the question, if it can be asked, and what is wrong."""

    def __init__(self, entry: RawQuestion, cut: bool, first_bounds: tuple[Any, Any]) -> None:
        self.entry = entry
        self.problems: list[Problem] = []
        self.fits = True
        self.duration = seconds(entry.duration)
        self.source_fps = seconds(entry.source_fps)
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
        extra = dict(entry.extra)
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

    def _time(self, name: str, value: Any) -> float | None:
        if value is None:
            return None
        time = seconds(value)
        if time is None:
            self._bad(f"{name!r} is {value!r}; needed: seconds or h:mm:ss", "bad times")
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
            self._bad(f"the evidence is from and to {given!r}", "bad times", False)
            return None
        return first, last

    def _options(self) -> tuple[str, ...]:
        given = self.entry.options
        options = tuple(given) if isinstance(given, (list, tuple)) else ()
        if not all(isinstance(option, str) for option in options) or (given and not options):
            self._bad(f"the options are {given!r}; needed: a list of texts", "bad options")
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
            return str(given)
        found = option_of(given, options, self.entry.form)
        if found is None:
            shown = ", ".join(options)
            self._bad(
                f"the answer {given!r} is none of the choices: {shown}", "answers not among the options"
            )
        return found or ""
