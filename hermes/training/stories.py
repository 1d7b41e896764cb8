"""Long answers that teach looking back: captions, summaries and lists, whose tokens ask for the next."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from hermes.data.wanderer.questions import History
from hermes.data.wanderer.world import COLOURS, CORNERS, OBJECTS, PLACES, SHAPES, Scene, object_name
from hermes.dialogue import GuidancePrompts
from hermes.training.words import NOTHING

__all__ = ["STORIES", "Story", "tell"]

_PROMPTS = GuidancePrompts()
_MOST = 6
# kind -> prompt. The first two are the prompts by which HERMES asks for attention.
STORIES: Mapping[str, str] = MappingProxyType(
    {
        "caption": _PROMPTS.local_text,
        "summary": _PROMPTS.global_text,
        "shapes": "List the shapes by place.",
        "colours": "List the colours by place.",
        "corners": "List the corners by place.",
        "objects": "List the objects by place.",
        "places": "List the places by object.",
        "forward": "List the places in order.",
        "reverse": "List the places in reverse order.",
        "numbers": "Number the places.",
        "befores": "List the place before each place.",
        "appeared": "Which objects appeared?",
        "visits": "Which places did we visit?",
        "firsts": "Which came first of each pair?",
    }
)


class Story(NamedTuple):
    """A prompt and its answer: words and, of each, whether it is to be learned (a key is given)."""

    prompt: str
    words: list[str]
    learned: list[bool]


def tell(kind: str, history: History, rng: np.random.Generator) -> Story:
    """One story about what was seen; the keys of a list come in random order.

    >>> from hermes.data.wanderer.world import WorldConfig, sample_stream
    >>> history = History(sample_stream(WorldConfig(length=9), "test", 0, 0), time=9)
    >>> " ".join(tell("forward", history, np.random.default_rng(0)).words)
    'forest , farm .'
    """
    if kind == "caption":
        scene = history.now
        words = [PLACES[scene.place], ",", *_seen(history.showing)]
        return _story(kind, [words], ",")
    if kind == "summary":
        rows = [
            [PLACES[s.place], ",", *_seen(s if s.place in history.shown else None)[:1]]
            for s in history.scenes
        ]
        return _story(kind, rows, ";")
    if kind in ("forward", "reverse"):
        places = [[PLACES[scene.place]] for scene in history.scenes]
        return _story(kind, places[:: 1 if kind == "forward" else -1], ",")
    if kind == "places":
        objects = [s.obj for s in history.shown.values()]
        pairs = [
            [object_name(s.obj), PLACES[s.place]] for s in history.shown.values() if objects.count(s.obj) == 1
        ]
    elif kind == "numbers":
        pairs = [[PLACES[place], str(i)] for i, place in enumerate(history.visits, start=1)]
    elif kind == "befores":
        pairs = [
            [PLACES[scene.place], PLACES[before.place]]
            for before, scene in zip(history.scenes, history.scenes[1:], strict=False)
            if len(history.visits[scene.place]) == 1
        ]
    elif kind == "firsts":
        # Places are numbered by their first visit.
        order = {PLACES[place]: i for i, place in enumerate(history.visits)}
        mixed = [list(order)[int(i)] for _ in range(_MOST) for i in rng.permutation(len(order))[:2]]
        twos = [mixed[i : i + 2] for i in range(0, len(mixed) - 1, 2)] if len(order) > 1 else []
        pairs = [[*two, min(two, key=order.__getitem__)] for two in twos]
    elif kind in ("appeared", "visits"):
        pairs = _whether(kind, history, rng)
    else:
        pairs = [
            [PLACES[place], _value(kind, history.shown[place]) if place in history.shown else NOTHING]
            for place in history.visits
        ]
    pairs = [pairs[int(i)] for i in rng.permutation(len(pairs))]
    return _story(kind, pairs, ",", keyed=True)


def _whether(kind: str, history: History, rng: np.random.Generator) -> list[list[str]]:
    """Objects or places, as many that were seen as not, and whether they were."""
    seen = {s.obj for s in history.shown.values()} if kind == "appeared" else set(history.visits)
    total, name = (OBJECTS, object_name) if kind == "appeared" else (len(PLACES), PLACES.__getitem__)
    there = rng.permutation(sorted(seen))[:_MOST]
    absent = rng.permutation([i for i in range(total) if i not in seen])[: len(there)]
    return [[name(int(i)), "yes"] for i in there] + [[name(int(i)), "no"] for i in absent]


def _seen(scene: Scene | None) -> list[str]:
    return [object_name(scene.obj), ",", CORNERS[scene.corner]] if scene else [NOTHING]


def _value(kind: str, scene: Scene) -> str:
    colour, shape = divmod(scene.obj, len(SHAPES))
    return {
        "shapes": SHAPES[shape],
        "colours": COLOURS[colour],
        "corners": CORNERS[scene.corner],
        "objects": object_name(scene.obj),
    }[kind]


def _story(kind: str, rows: list[list[str]], joint: str, *, keyed: bool = False) -> Story:
    words: list[str] = []
    learned: list[bool] = []
    for row in rows:
        words += [*row, joint]
        # Of a row with keys only the last word is learned.
        learned += [*[False] * (len(row) - 1), True, False] if keyed else [True] * (len(row) + 1)
    if words:
        words[-1] = "."
    return Story(STORIES[kind], words, learned)
