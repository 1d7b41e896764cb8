"""How long the answer to a question about a walk stays right."""

from __future__ import annotations

import numpy as np

from hermes.data.wanderer.questions import ATTRIBUTES, KINDS, History, Question
from hermes.data.wanderer.world import OBJECTS, PLACES, Stream, object_name

__all__ = ["answer_at", "holds_until"]


def answer_at(kind: str, text: str, history: History) -> str | None:
    """The right answer to a question at some moment; None where it cannot be asked then.

    Found from the question's words, so that the same words can be asked later.

    Args:
        kind: a key of ``KINDS``.
        text: the question, as :func:`ask` words it.
        history: what has been seen.

    >>> from hermes.data.wanderer.world import WorldConfig, sample_stream
    >>> stream = sample_stream(WorldConfig(), "test", 0, 0)
    >>> answer_at("count_places", "How many places did we visit?", History(stream, 1))
    '1'
    """
    words = text.rstrip("?").replace(",", "").split()
    places = [PLACES.index(word) for word in words if word in PLACES]
    objects = [obj for obj in range(OBJECTS) if object_name(obj) in words]
    if kind.startswith("past_"):
        scene = next((scene for scene in history.past if scene.place == places[0]), None)
        return None if scene is None else ATTRIBUTES[kind.removeprefix("past_")][3](scene)
    if kind == "object_place":
        held = [scene.place for scene in history.shown.values() if scene.obj == objects[0]]
        return PLACES[held[0]] if len(held) == 1 and held[0] != history.now.place else None
    if kind == "place_before":
        starts = [scene.start for scene in history.visits.get(places[0], ())]
        before = (
            [scene.place for scene in history.scenes if scene.end == starts[0]] if len(starts) == 1 else []
        )
        return PLACES[before[0]] if before else None
    if kind == "order":
        return PLACES[min(places, key=lambda place: history.visits[place][0].start)]
    if kind == "saw_object":
        return "yes" if any(scene.obj == objects[0] for scene in history.shown.values()) else "no"
    if kind == "visited":
        return "yes" if places[0] in history.visits else "no"
    # The others ask about the moment, or about everything: they draw nothing.
    made = KINDS[kind].make(history, np.random.default_rng(0))
    return None if made is None else made[1]


def holds_until(question: Question, stream: Stream) -> int:
    """The second at which a question's answer is no longer right, or the stream's end plus one.

    >>> from hermes.data.wanderer.world import WorldConfig, sample_stream
    >>> stream = sample_stream(WorldConfig(), "test", 0, 0)
    >>> from hermes.data.wanderer.questions import ask
    >>> first = ask("first_place", History(stream, 20), np.random.default_rng(0))
    >>> holds_until(first, stream)
    33
    """
    for time in range(question.time + 1, stream.length + 1):
        if answer_at(question.kind, question.text, History(stream, time)) != question.answer:
            return time
    return stream.length + 1
