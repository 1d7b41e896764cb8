"""Streams of captions made up by rule: scenes of a few seconds, and questions that one of them answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from types import MappingProxyType

import numpy as np

from hermes.data.clips import Clip, TimedQuestion

__all__ = ["KINDS", "MOST_CAPTIONS", "SPLITS", "VERSION", "Scene", "Tale", "tale"]

# Of the words and the rules: with another, questions are others.
VERSION = "scenes-1"
SPLITS = ("train", "validation", "test")
# People, what they do, what things look like, things, and places. In the tokenizers that were looked at each
# word begins with a token of its own, which tells it.
_WORDS = """
sailor baker nurse farmer painter soldier priest doctor pilot dancer singer judge thief waiter
tailor barber miner hunter monk clown writer student king queen wizard giant pirate knight driver
gardener plumber lawyer butcher carpenter chemist athlete mayor detective engineer librarian

paints washes breaks hides finds opens burns carries drops folds builds cuts steals sells buys kicks
lifts pulls pushes throws catches fixes cleans polishes buries draws weighs shakes wraps hangs
measures locks fills empties turns rolls scratches touches licks tests

wooden golden tiny rusty broken purple striped heavy frozen hollow ancient silver yellow round dirty
soft bright sharp green leather glass plastic velvet muddy sticky orange shiny woolen empty large
copper crimson marble paper woven foreign borrowed spotted curved cotton

boat cake bandage pumpkin canvas helmet candle needle kite ribbon guitar hammer ladder trumpet
basket mirror shovel rifle bell balloon pencil globe crown carpet potion wheel compass shield engine
hose pipe wallet knife chair bottle ball flag key clock coat

harbor kitchen hospital barn garage castle church clinic airport theater tunnel court attic
restaurant basement garden mine forest desert circus library school palace tower cave valley island
stable street greenhouse cellar office market workshop laboratory stadium museum alley factory hotel
"""
_CAST = tuple(tuple(part.split()) for part in _WORDS.split("\n\n"))
_SCENES = len(_CAST[0])
_SHORTEST, _LONGEST = 2, 6
# Of this many, every second draw of lengths needs no more scenes than there are words.
MOST_CAPTIONS = _SCENES * (_SHORTEST + _LONGEST) // 2
# A scene that ends later is still close to now.
_PAST = 4
_LINES = (
    "The {person} {action} the {look} {thing} in the {place}.",
    "In the {place}, the {person} {action} the {look} {thing}.",
    "The {person} is in the {place} with the {look} {thing}.",
)


@dataclass(frozen=True)
class Scene:
    """Somebody does something to a thing in a place, from ``start`` to ``end`` (s); no word comes again."""

    person: str
    action: str
    look: str
    thing: str
    place: str
    start: int
    end: int

    @property
    def what(self) -> str:
        """The thing and what it looks like."""
        return f"{self.look} {self.thing}"

    def told(self, pattern: str) -> str:
        """The words of the scene in the places of a text.

        >>> Scene("nurse", "folds", "tiny", "kite", "barn", 0, 3).told("Where is the {thing}?")
        'Where is the kite?'
        """
        return pattern.format(**vars(self))


@dataclass(frozen=True)
class _Kind:
    """A kind of question about one scene: its wording, how its answer begins, and what the answer is."""

    text: str
    lead: str
    answer: Callable[[Scene], str]


# Each answer begins as a caption does: a small decoder then finds the rest of it.
_FACTS: Mapping[str, _Kind] = MappingProxyType(
    {
        "where": _Kind(
            "Where is it that the {person} {action} the {look} {thing}?",
            "The {person} {action} the {look} {thing} in the",
            lambda scene: scene.place,
        ),
        "what": _Kind(
            "What is it that the {person} {action} in the {place}?",
            "In the {place}, the {person} {action} the",
            lambda scene: scene.what,
        ),
        "who": _Kind(
            "Who {action} the {look} {thing} in the {place}?",
            "In the {place}, the",
            lambda scene: scene.person,
        ),
        "did": _Kind(
            "What does the {person} do?", "In the {place}, the {person}", lambda scene: scene.action
        ),
    }
)
# Of now; in turn where, who and what.
_NOW = (
    _Kind("Where is the {person} now?", "The {person} is in the", lambda scene: scene.place),
    _Kind("Who has the {look} {thing} now?", "In the {place}, the", lambda scene: scene.person),
    _Kind(
        "What does the {person} have now?",
        "The {person} is in the {place} with the",
        lambda scene: scene.what,
    ),
)
_FIRST = "First came the"
KINDS = ("now", *_FACTS, "order")
_CATEGORIES: Mapping[str, str] = MappingProxyType(
    {"now": "real-time", **dict.fromkeys(_FACTS, "backward"), "order": "sequence"}
)


@dataclass(frozen=True)
class Tale:
    """One stream: a caption every second, and questions in order of time."""

    name: str
    captions: tuple[str, ...]
    scenes: tuple[Scene, ...]
    questions: tuple[TimedQuestion, ...]

    @property
    def clip(self) -> Clip:
        """As a clip of a benchmark."""
        return Clip("", self.questions, self.name, float(len(self.captions)))


def tale(
    split: str,
    seed: int,
    index: int,
    length: int,
    questions: int,
    kinds: Sequence[str] = (),
    choices: int = 20,
) -> Tale:
    """Stream ``index`` of a series, always the same.

    Args:
        split: one of ``SPLITS``; the streams of one are in no other.
        seed: of the series.
        index: of the stream.
        length: captions, a second each.
        questions: at most; every kind in turn. Now is asked about at the half, at three quarters and at the
            end, everything else at the end, of scenes spread over the stream.
        kinds: those to ask; all by default.
        choices: options of a question, the answer among them.

    >>> one = tale("test", 0, 0, length=64, questions=6)
    >>> one.captions[0], len(one.captions), one.questions[-1].choices.index(one.questions[-1].answer) >= 0
    ('The queen lifts the marble carpet in the cave.', 64, True)
    """
    rng = np.random.default_rng((SPLITS.index(split), seed, index, length))
    words = [[str(word) for word in rng.permutation(list(some))] for some in _CAST]
    lengths: list[int] = []
    while not lengths or len(lengths) > _SCENES:
        lengths = _lengths(length, rng)
    ends = np.cumsum(lengths).tolist()
    # What is not told, for want of time, is there for options that are wrong.
    spare = [(length, length)] * _SCENES
    times = [*zip([0, *ends], ends, strict=False), *spare][:_SCENES]
    cast = tuple(Scene(*told, *seconds) for *told, seconds in zip(*words, times, strict=True))
    scenes = cast[: len(ends)]
    captions = tuple(line for scene in scenes for line in _captions(scene, rng))
    asked = _Asker(cast, scenes, length, choices, rng).questions(questions, kinds or KINDS)
    return Tale(f"{split}_{seed}_{index:05d}", captions, scenes, asked)


def _lengths(length: int, rng: np.random.Generator) -> list[int]:
    """Seconds of each scene; the last one is cut."""
    out: list[int] = []
    while (left := length - sum(out)) > 0:
        out.append(min(int(rng.integers(_SHORTEST, _LONGEST + 1)), left))
    return out


def _captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """One a second: the plain one first, then the others, then any."""
    order = [0, *rng.permutation([1, 2]).tolist(), *rng.integers(0, len(_LINES), _LONGEST).tolist()]
    return [scene.told(_LINES[number]) for number in order[: scene.end - scene.start]]


@dataclass(frozen=True)
class _Asker:
    """Makes the questions about one stream."""

    cast: Sequence[Scene]
    scenes: Sequence[Scene]
    length: int
    choices: int
    rng: np.random.Generator

    def questions(self, count: int, kinds: Sequence[str]) -> tuple[TimedQuestion, ...]:
        """At most so many, every kind in turn, in order of time."""
        made: list[TimedQuestion] = []
        for place, kind in enumerate(kinds):
            number = len(range(place, count, len(kinds)))
            make = {"now": self._now, "order": self._order}.get(kind)
            made += make(number) if make else [self._fact(kind, scene) for scene in self._spread(number)]
        return tuple(sorted(made, key=lambda question: question.time or 0.0))

    @property
    def _past(self) -> list[Scene]:
        return [scene for scene in self.scenes if scene.end <= self.length - _PAST]

    def _spread(self, count: int) -> list[Scene]:
        """So many past scenes, one from each part of the stream, none twice."""
        past = self._past
        edges = np.linspace(0, len(past), min(count, len(past)) + 1).round().astype(int).tolist()
        return [past[int(self.rng.integers(a, b))] for a, b in pairwise(edges)]

    def _now(self, count: int) -> list[TimedQuestion]:
        """At three times, at each in other words: at most every wording once."""
        times, forms = (self.length // 2, self.length * 3 // 4, self.length), len(_NOW)
        asked = [(times[i % 3], _NOW[(i + i // 3) % forms]) for i in range(min(count, 3 * forms))]
        running = [next(scene for scene in self.scenes if time <= scene.end) for time, _ in asked]
        return [
            self._about("now", form, scene, time) for (time, form), scene in zip(asked, running, strict=True)
        ]

    def _order(self, count: int) -> list[TimedQuestion]:
        pairs = list(combinations(self._past, 2))
        chosen = self.rng.permutation(len(pairs))[:count].tolist()
        return [self._which_first(*pairs[number]) for number in chosen]

    def _which_first(self, first: Scene, second: Scene) -> TimedQuestion:
        pair = [first.person, second.person]
        if self.rng.random() < 0.5:
            pair.reverse()
        text, evidence = f"Who came first, the {pair[0]} or the {pair[1]}?", (first.start, second.start + 1)
        return self._asked("order", text, _FIRST, first.person, pair, self.length, evidence)

    def _fact(self, name: str, scene: Scene) -> TimedQuestion:
        return self._about(name, _FACTS[name], scene, self.length)

    def _about(self, name: str, kind: _Kind, scene: Scene, time: int) -> TimedQuestion:
        """A question about a scene; options are of other scenes of the stream, as far as there are enough."""
        others = [other for other in self.cast if other is not scene]
        told = len(self.scenes) - 1
        mixed = [*self.rng.permutation(told).tolist(), *range(told, len(others))][: self.choices - 1]
        options = [kind.answer(others[number]) for number in mixed]
        options.insert(int(self.rng.integers(len(options) + 1)), kind.answer(scene))
        words = (scene.told(kind.text), scene.told(kind.lead), kind.answer(scene))
        return self._asked(name, *words, options, time, (scene.start, min(scene.end, time)))

    def _asked(
        self,
        kind: str,
        text: str,
        lead: str,
        answer: str,
        options: Sequence[str],
        time: int,
        evidence: tuple[int, int],
    ) -> TimedQuestion:
        # What was told stays true; what is so now may be over in a second.
        lasts = {} if kind == "now" else {"valid_until": float(MOST_CAPTIONS + 1)}
        return TimedQuestion(
            question=text,
            answer=answer,
            choices=tuple(options),
            time=float(time),
            task=kind,
            evidence=(float(evidence[0]), float(evidence[1])),
            extra={"kind": kind, "category": _CATEGORIES[kind], "lead": lead, **lasts},
        )
