"""Captions made up by rule: deterministic, true, and answered by their evidence."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from hermes.config import build
from hermes.data.readers import Captions
from hermes.data.scenes import KINDS, MOST_CAPTIONS, SPLITS, tale
from hermes.errors import InputError, SettingError
from hermes.registry import registry
from hermes.video import VideoConfig

pytestmark = pytest.mark.unit


@pytest.fixture(params=[64, 128, MOST_CAPTIONS], ids=lambda length: f"{length} captions")
def data(request) -> Captions:
    return Captions(length=request.param, streams=4)


def test_without_a_folder_captions_are_made_up(data):
    assert isinstance(registry("data").get("captions")(), Captions)
    assert len(data) == 4
    with data.frames(2, VideoConfig(), 1.0) as frames:
        told = list(frames)
    assert [(one.time, one.index) for one in told] == [(float(i), i) for i in range(data.length)]
    assert [one.text for one in told] == list(data.tale(2).captions)
    with data.frames(2, VideoConfig(start=10, end=13), 1.0) as frames:
        assert [(one.time, one.index) for one in frames] == [(10.0, 0), (11.0, 1), (12.0, 2)]
    with pytest.raises(InputError, match="no caption from 500 s"):
        data.frames(2, VideoConfig(start=500), 1.0)
    assert data.survey().questions == 100
    assert data.fingerprint() == "scenes-1"


def test_streams_are_the_same_again_and_other_seeds_and_splits_have_others(data):
    assert data.tale(1) == Captions(length=data.length, streams=2).tale(1)
    others = [data.tale(i).captions for i in range(4)]
    others += [Captions(split=split, seed=0, length=data.length).tale(1).captions for split in SPLITS[:2]]
    others += [Captions(seed=1, length=data.length).tale(1).captions]
    assert len(set(others)) == 7


def test_words_do_not_come_again(data):
    for index in range(4):
        scenes = data.tale(index).scenes
        for part in ("person", "action", "look", "thing", "place"):
            assert len({getattr(scene, part) for scene in scenes}) == len(scenes)
        assert [scene.start for scene in scenes] == [0, *(scene.end for scene in scenes[:-1])]
        assert scenes[-1].end == data.length
        assert {scene.end - scene.start for scene in scenes[:-1]} <= set(range(2, 7))


def test_answers_are_told_within_their_evidence(data):
    for index in range(4):
        one = data.tale(index)
        assert [question.time for question in one.questions] == sorted(q.time for q in one.questions)
        for question in one.questions:
            start, end = (int(time) for time in question.evidence)
            assert 0 <= start < end <= question.time
            assert question.answer in " ".join(one.captions[start:end])
            assert question.choices.count(question.answer) == 1
            assert len({option.split()[0] for option in question.choices}) == len(question.choices)
            assert len(question.choices) == (2 if question.task == "order" else 20)
            if question.task != "order":
                outside = one.captions[:start] + one.captions[end : int(question.time)]
                inside = next(scene for scene in one.scenes if scene.start == start)
                # The scene goes on after a question about now.
                rest = [line for line in outside if inside.person not in line]
                assert not any(re.search(rf"\b{question.answer}\b", line) for line in rest)
            assert (question.time - end <= 0) == (question.task == "now")


def test_the_person_who_came_first_came_first():
    for question in tale("test", 3, 0, 64, 40, ["order"]).questions:
        lines = list(tale("test", 3, 0, 64, 1).captions)
        first = {name: next(i for i, line in enumerate(lines) if name in line) for name in question.choices}
        assert question.answer == min(first, key=lambda person: first[person])


def test_kinds_come_in_turn_and_answers_stand_anywhere():
    data = Captions(streams=40)
    asked = [question for index in range(40) for question in data.clip(index).questions]
    assert len(asked) == 1000
    assert Counter(question.task for question in asked) == {"now": 200, **dict.fromkeys(KINDS[1:], 160)}
    places = Counter(q.choices.index(q.answer) for q in asked if q.task != "order")
    assert min(places.values()) > 15
    assert all(question.extra["lead"] and question.lead for question in asked)
    few = Captions(kinds=["who"], questions=3, options=4).clip(0).questions
    assert [(question.task, len(question.choices)) for question in few] == [("who", 4)] * 3
    held = {q.task: data.holds(0, q) for q in data.clip(0).questions}
    assert held["now"] is None
    assert held["who"] > 64


@pytest.mark.parametrize(
    ("given", "said"),
    [({"kinds": ["whom"]}, "Did you mean 'who'"), ({"split": "tests"}, "split"), ({"length": 161}, "160")],
)
def test_wrong_settings_are_named(given, said):
    with pytest.raises(SettingError, match=said):
        build(Captions, given, "data")
