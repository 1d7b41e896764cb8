"""Wanderer against an independent reading of what its frames show: answers, evidence, options."""

from __future__ import annotations

import collections
import re

import numpy as np
import pytest

from hermes.data.wanderer import KINDS, Wanderer, WorldConfig, sample_stream
from hermes.data.wanderer.questions import History, Question, ask
from hermes.data.wanderer.world import COLOURS, CORNERS, PLACES, SHAPES, codes
from hermes.video import VideoConfig

# code -> place, object, corner; -1 where there is none
LOOKS = {int(row[0]): tuple(int(x) for x in row[1:]) for row in codes()}
WORLDS = {
    "short": {"length": 32},
    "long": {"length": 128},
    "back and forth": {"length": 64, "revisit": 0.4, "flash": 1.0},
    "hasty": {"length": 40, "scene": 1},
    "bare": {"length": 60, "scene": 10, "empty": 0.5},
}
WHOLE = None
CHANCE = {
    **dict.fromkeys(("now_place", "object_place", "first_place", "place_before"), 1 / 16),
    **dict.fromkeys(("now_colour", "now_shape", "past_colour", "past_shape"), 1 / 6),
    **dict.fromkeys(("now_corner", "past_corner"), 1 / 4),
    **dict.fromkeys(("order", "saw_object", "visited"), 1 / 2),
    **{"count_places": 1 / 17, "count_shapes": 1 / 7},
}


def last(seen: list[bool]) -> int:
    """End (exclusive) of the last moment at which something held."""
    return max(i for i, held in enumerate(seen) if held) + 1


def truth(question: Question, seen: list[tuple[int, int, int]]) -> tuple[str, int | None]:
    """Answer, and end of its evidence (None: everywhere), from the looks seen so far alone."""
    kind, text = question.kind, question.text
    places = [look[0] for look in seen]
    named = [i for i, place in enumerate(PLACES) if re.search(rf"\b{place}\b", text)]
    objects = [i for i in range(36) if f"{COLOURS[i // 6]}-{SHAPES[i % 6]}" in text]
    visits = [place for i, place in enumerate(places) if i == 0 or places[i - 1] != place]

    def attribute(look: tuple[int, int, int]) -> str:
        _, obj, corner = look
        return {"colour": COLOURS[obj // 6], "shape": SHAPES[obj % 6], "corner": CORNERS[corner]}[
            kind.partition("_")[2]
        ]

    if kind == "now_place":
        return PLACES[places[-1]], len(seen)
    if kind.startswith("now_"):
        return attribute(seen[-1]), len(seen)
    if kind.startswith("past_"):
        there = {look for look in seen if look[0] == named[0] and look[1] >= 0}
        assert len(there) == 1
        assert places[-1] != named[0]
        return attribute(next(iter(there))), last([look in there for look in seen])
    if kind == "object_place":
        (where,) = {look[0] for look in seen if look[1] == objects[0]}
        return PLACES[where], last([look[1] == objects[0] for look in seen])
    if kind == "first_place":
        return PLACES[places[0]], next(i for i, place in enumerate(places) if place != places[0])
    if kind == "place_before":
        (at,) = [i for i, place in enumerate(visits) if place == named[0]]
        return PLACES[visits[at - 1]], places.index(named[0]) + 1
    if kind == "order":
        starts = [places.index(place) for place in named]
        return PLACES[named[int(np.argmin(starts))]], max(starts) + 1
    if kind == "count_places":
        return str(len(set(places))), WHOLE
    if kind == "count_shapes":
        return str(len({look[1] % 6 for look in seen if look[1] >= 0})), WHOLE
    shown = (
        [look[1] == objects[0] for look in seen] if kind == "saw_object" else [p == named[0] for p in places]
    )
    return ("yes", last(shown)) if any(shown) else ("no", WHOLE)


@pytest.mark.parametrize("world", WORLDS)
def test_every_question_is_true(world):
    counted: collections.Counter[str] = collections.Counter()
    for i in range(40):
        stream = sample_stream(WorldConfig(**WORLDS[world]), "test", 11, i)
        looks = [LOOKS[code] for code in stream.codes.tolist()]
        rng = np.random.default_rng((5, i))
        for kind in KINDS:
            for choices in (0, 4):
                time = int(rng.integers(1, len(looks) + 1))
                question = ask(kind, History(stream, time), rng, choices)
                if question is None:
                    continue
                counted[kind] += 1
                answer, end = truth(question, looks[:time])
                assert question.answer == answer, question
                assert question.chance == (1 / len(question.options) if choices else CHANCE[kind])
                assert question.evidence[1] == (time if end is WHOLE else end), question
                assert 0 <= question.evidence[0] < question.evidence[1] <= time
                if choices:
                    assert question.options.count(answer) == 1
                    assert len(set(question.options)) == len(question.options) >= 2
                    # Nothing in the question or on screen rules an option out.
                    if kind == "place_before":
                        assert not [option for option in question.options if option in question.text]
                    if kind == "object_place":
                        assert PLACES[looks[time - 1][0]] not in question.options
    assert set(counted) == set(KINDS)
    assert min(counted.values()) >= 10, counted


@pytest.mark.parametrize(
    "kind", ["past_shape", "object_place", "count_places", "count_shapes", "order", "visited"]
)
def test_a_letter_tells_nothing(kind):
    """Neither its place among the options nor, of numbers, its rank is a clue."""
    letters: collections.Counter[int] = collections.Counter()
    ranks: collections.Counter[int] = collections.Counter()
    for i in range(600):
        rng = np.random.default_rng((9, i))
        stream = sample_stream(WorldConfig(length=32), "test", 12, i)
        question = ask(kind, History(stream, int(rng.integers(16, 33))), rng, 4)
        if question is not None:
            letters[question.options.index(question.answer)] += 1
            if kind.startswith("count"):
                ranks[sorted(map(int, question.options)).index(int(question.answer))] += 1
    total, count = sum(letters.values()), len(letters)
    assert total > 300
    # Five standard deviations of a fair draw.
    spread = 5 * (total * (1 / count) * (1 - 1 / count)) ** 0.5
    assert all(abs(n - total / count) < spread for n in letters.values()), letters
    if kind == "count_places":
        assert all(abs(n - total / 4) < spread for n in ranks.values()), ranks


def test_streams_without_questions_keep_their_numbers(tmp_path):
    settings = {
        "streams": 12,
        "questions": 1,
        "kinds": ["visited"],
        "seed": 2,
        "world": WorldConfig(length=96),
    }
    filed, drawn = Wanderer(**settings, files=tmp_path / "w"), Wanderer(**settings)
    # Where every place was visited there is nothing to ask.
    assert 0 < sum(not drawn[i].questions for i in range(12)) < 12
    for i in range(12):
        assert [q.question for q in filed.clip(i).questions] == [q.question for q in drawn.clip(i).questions]
        assert drawn[i].name in filed.clip(i).video
    with filed.frames(11, VideoConfig(), 1.0) as frames:
        assert sum(1 for _ in frames) == 96


def test_streams_of_a_series_have_noise_of_their_own():
    bench = Wanderer(streams=2, world=WorldConfig(length=1, empty=1.0, clutter=0.0))
    pictures = [next(iter(bench[i].frames())).image.astype(int) for i in range(2)]
    noise = [picture - np.median(picture) for picture in pictures]
    assert np.abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.9
