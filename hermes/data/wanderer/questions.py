"""Questions about a walk: kinds, wording, answers, options, and where the evidence is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from hermes.data.wanderer.world import COLOURS, CORNERS, OBJECTS, PLACES, SHAPES, Scene, Stream, object_name

__all__ = ["KINDS", "Category", "History", "Kind", "Question", "ask", "questions"]

Category = Literal["real-time", "backward", "sequence", "counting", "hallucination"]
NUMBERS = tuple(str(n) for n in range(len(PLACES) + 1))
_YES_NO = ("yes", "no")
_ORDER = ("first", "second")


@dataclass(frozen=True)
class Question:
    """One question at a time of a stream.

    Attributes:
        kind: its key in ``KINDS``.
        text: what is asked.
        answer: one word.
        time: seconds of the stream that have passed: frames before it are seen.
        evidence: seconds from and to which the latest evidence shows; all that passed where it is everywhere.
        options: for multiple choice; the answer is one of them.
    """

    kind: str
    text: str
    answer: str
    time: int
    evidence: tuple[int, int]
    options: tuple[str, ...] = ()

    @property
    def age(self) -> int:
        """Seconds since the evidence was last seen."""
        return self.time - self.evidence[1]

    @property
    def chance(self) -> float:
        """Accuracy of a guess among the answers allowed, or among the options."""
        return 1 / len(self.options or KINDS[self.kind].answers)


class History:
    """What has been seen after ``time`` seconds: the scenes so far and, of each place, its visits."""

    def __init__(self, stream: Stream, time: int) -> None:
        self.time = time
        self.scenes = [scene for scene in stream.scenes if scene.start < time]
        self.now = self.scenes[-1]
        self.visits: dict[int, list[Scene]] = {}
        for scene in self.scenes:
            self.visits.setdefault(scene.place, []).append(scene)
        # place -> its object's latest showing
        self.shown: dict[int, Scene] = {s.place: s for s in self.scenes if s.obj >= 0 and s.shown[0] < time}

    @property
    def whole(self) -> tuple[int, int]:
        """From the first second to now."""
        return 0, self.time

    @property
    def showing(self) -> Scene | None:
        """The current scene, while its object is on screen."""
        scene = self.now
        return scene if scene.obj >= 0 and scene.shown[0] < self.time <= scene.shown[1] else None

    @property
    def past(self) -> list[Scene]:
        """Latest showings at places other than the current one."""
        return [scene for place, scene in self.shown.items() if place != self.now.place]

    def evidence(self, scene: Scene) -> tuple[int, int]:
        """Seconds from and to which a scene's object has been on screen."""
        return scene.shown[0], min(scene.shown[1], self.time)


Asked = tuple[str, str, tuple[int, int]]
Maker = Callable[[History, np.random.Generator], Asked | None]


@dataclass(frozen=True)
class Kind:
    """A kind of question: its category, the task of OVO-Bench it mirrors, and every answer it can have."""

    category: Category
    task: str
    answers: tuple[str, ...]
    make: Maker

    @property
    def chance(self) -> float:
        """Accuracy of a guess at the open form."""
        return 1 / len(self.answers)


def _pick(items: Sequence[Scene], rng: np.random.Generator) -> Scene | None:
    return items[int(rng.integers(len(items)))] if items else None


# What an object has: its values, the question now and about the past, and how a scene tells it.
ATTRIBUTES: Mapping[str, tuple[tuple[str, ...], str, str, Callable[[Scene], str]]] = MappingProxyType(
    {
        "colour": (
            COLOURS,
            "What colour is the object now?",
            "What colour was in the {}?",
            lambda scene: COLOURS[scene.obj // len(SHAPES)],
        ),
        "shape": (
            SHAPES,
            "What shape is the object now?",
            "What shape was in the {}?",
            lambda scene: SHAPES[scene.obj % len(SHAPES)],
        ),
        "corner": (
            CORNERS,
            "Which corner is the object in now?",
            "Which corner was filled in the {}?",
            lambda scene: CORNERS[scene.corner],
        ),
    }
)


def _now_place(history: History, rng: np.random.Generator) -> Asked:
    return "Where are we now?", PLACES[history.now.place], (history.time - 1, history.time)


def _now(attribute: str) -> Maker:
    _, text, _, value = ATTRIBUTES[attribute]

    def make(history: History, rng: np.random.Generator) -> Asked | None:
        scene = history.showing
        return (text, value(scene), (history.time - 1, history.time)) if scene else None

    return make


def _past(attribute: str) -> Maker:
    _, _, text, value = ATTRIBUTES[attribute]

    def make(history: History, rng: np.random.Generator) -> Asked | None:
        scene = _pick(history.past, rng)
        return (text.format(PLACES[scene.place]), value(scene), history.evidence(scene)) if scene else None

    return make


def _object_place(history: History, rng: np.random.Generator) -> Asked | None:
    objects = [scene.obj for scene in history.shown.values()]
    scene = _pick([scene for scene in history.past if objects.count(scene.obj) == 1], rng)
    if scene is None:
        return None
    return f"Where was the {object_name(scene.obj)}?", PLACES[scene.place], history.evidence(scene)


def _first_place(history: History, rng: np.random.Generator) -> Asked | None:
    first = history.scenes[0]
    if len(history.scenes) < 2:
        return None
    return "Which place came first?", PLACES[first.place], (first.start, first.end)


def _place_before(history: History, rng: np.random.Generator) -> Asked | None:
    once = [
        (before, scene)
        for before, scene in zip(history.scenes, history.scenes[1:], strict=False)
        if len(history.visits[scene.place]) == 1
    ]
    if not once:
        return None
    before, scene = once[int(rng.integers(len(once)))]
    text = f"Where were we before the {PLACES[scene.place]}?"
    return text, PLACES[before.place], (before.start, scene.start + 1)


def _order(history: History, rng: np.random.Generator) -> Asked | None:
    places = list(history.visits)
    if len(places) < 2:
        return None
    pair = [places[int(i)] for i in rng.choice(len(places), 2, replace=False)]
    starts = [history.visits[place][0].start for place in pair]
    text = "Which came first, the {} or the {}?".format(*(PLACES[place] for place in pair))
    earlier = int(np.argmin(starts))
    return text, PLACES[pair[earlier]], (min(starts), max(starts) + 1)


def _count_places(history: History, rng: np.random.Generator) -> Asked:
    return "How many places did we visit?", NUMBERS[len(history.visits)], history.whole


def _count_shapes(history: History, rng: np.random.Generator) -> Asked:
    shapes = {scene.obj % len(SHAPES) for scene in history.shown.values()}
    return "How many shapes appeared?", NUMBERS[len(shapes)], history.whole


def _saw_object(history: History, rng: np.random.Generator) -> Asked | None:
    # Of an object that stands at several places, the showing seen last.
    shown = sorted(history.shown.values(), key=lambda scene: scene.shown[0])
    seen = {scene.obj: scene for scene in shown}
    past = [scene for scene in seen.values() if scene is not history.now]
    if rng.random() < 0.5:
        scene = _pick(past, rng)
        return (_appear(scene.obj), "yes", history.evidence(scene)) if scene else None
    unseen = [obj for obj in range(OBJECTS) if obj not in seen]
    return (_appear(unseen[int(rng.integers(len(unseen)))]), "no", history.whole) if past else None


def _appear(obj: int) -> str:
    return f"Did the {object_name(obj)} appear?"


def _visited(history: History, rng: np.random.Generator) -> Asked | None:
    text = "Did we visit the {}?"
    past = [place for place in history.visits if place != history.now.place]
    unseen = [place for place in range(len(PLACES)) if place not in history.visits]
    if not past or not unseen:
        return None
    if rng.random() < 0.5:
        last = history.visits[past[int(rng.integers(len(past)))]][-1]
        return text.format(PLACES[last.place]), "yes", (last.start, last.end)
    return text.format(PLACES[unseen[int(rng.integers(len(unseen)))]]), "no", history.whole


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "now_place": Kind("real-time", "STU", PLACES, _now_place),
        "now_colour": Kind("real-time", "ATR", COLOURS, _now("colour")),
        "now_shape": Kind("real-time", "OJR", SHAPES, _now("shape")),
        "now_corner": Kind("real-time", "STU", CORNERS, _now("corner")),
        "past_colour": Kind("backward", "EPM", COLOURS, _past("colour")),
        "past_shape": Kind("backward", "EPM", SHAPES, _past("shape")),
        "past_corner": Kind("backward", "EPM", CORNERS, _past("corner")),
        "object_place": Kind("backward", "EPM", PLACES, _object_place),
        "first_place": Kind("sequence", "ASI", PLACES, _first_place),
        "place_before": Kind("sequence", "ASI", PLACES, _place_before),
        "order": Kind("sequence", "ASI", _ORDER, _order),
        "count_places": Kind("counting", "REC", NUMBERS, _count_places),
        "count_shapes": Kind("counting", "REC", NUMBERS[: len(SHAPES) + 1], _count_shapes),
        "saw_object": Kind("hallucination", "HLD", _YES_NO, _saw_object),
        "visited": Kind("hallucination", "HLD", _YES_NO, _visited),
    }
)


def ask(kind: str, history: History, rng: np.random.Generator, choices: int = 0) -> Question | None:
    """A question of one kind, or None where nothing of the kind can be asked yet.

    Args:
        kind: a key of ``KINDS``.
        history: what has been seen.
        rng: chooses what is asked about and the options.
        choices: options to offer (fewer where there are fewer answers); 0: an open question.

    >>> from hermes.data.wanderer.world import WorldConfig, sample_stream
    >>> history = History(sample_stream(WorldConfig(), "test", 0, 0), time=32)
    >>> ask("past_shape", history, np.random.default_rng(0), choices=4).chance
    0.25
    """
    made = KINDS[kind].make(history, rng)
    if made is None:
        return None
    text, answer, evidence = made
    options = _options(kind, text, answer, history, choices, rng) if choices else ()
    return Question(kind, text, answer, history.time, evidence, options)


def _options(
    kind: str, text: str, answer: str, history: History, choices: int, rng: np.random.Generator
) -> tuple[str, ...]:
    """The answer among others that nothing but the stream rules out.

    Places that were visited come first, without those that the question itself excludes; numbers are
    neighbours, among which the answer may stand anywhere.
    """
    answers = KINDS[kind].answers
    if kind == "order":
        answers = tuple(place for place in PLACES if place in text)
    if answers[0] in NUMBERS:
        first = answers.index(answer) - int(rng.integers(min(choices, len(answers))))
        first = min(max(first, 0), max(len(answers) - choices, 0))
        near = answers[first : first + choices]
        return tuple(near[int(i)] for i in rng.permutation(len(near)))
    excluded = {answer}
    if kind == "place_before":
        excluded |= {place for place in PLACES if place in text}
    if kind == "object_place":
        excluded.add(PLACES[history.now.place])
    seen = {PLACES[place] for place in history.visits}
    wrong = [other for other in answers if other not in excluded]
    mixed = [wrong[int(i)] for i in rng.permutation(len(wrong))]
    picked = sorted(mixed, key=lambda other: other not in seen)[: choices - 1]
    picked.insert(int(rng.integers(len(picked) + 1)), answer)
    return tuple(picked)


def questions(
    stream: Stream,
    rng: np.random.Generator,
    count: int,
    kinds: Sequence[str] = (),
    choices: float = 0.0,
    late: float = 0.5,
) -> list[Question]:
    """At most ``count`` questions about a stream, in order of time: every kind in turn, at random times.

    Args:
        stream: the walk.
        rng: chooses times, what is asked about, and options.
        count: questions at most; some moments allow no question of a kind.
        kinds: those to ask; all by default.
        choices: share of multiple-choice questions, with four options where there are as many answers.
        late: they come after this share of the stream.

    >>> from hermes.data.wanderer.world import WorldConfig, sample_stream
    >>> stream = sample_stream(WorldConfig(), "test", 0, 0)
    >>> [q.kind for q in questions(stream, np.random.default_rng(0), 2, ["now_place", "order"])]
    ['order', 'now_place']
    """
    names = list(kinds or KINDS)
    made = []
    for i in range(count):
        # A few tries: not every moment has an object on screen.
        for _ in range(8):
            time = int(rng.integers(int(late * stream.length), stream.length)) + 1
            options = 4 if rng.random() < choices else 0
            question = ask(names[i % len(names)], History(stream, time), rng, options)
            if question is not None:
                made.append(question)
                break
    return sorted(made, key=lambda question: question.time)
