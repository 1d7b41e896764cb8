"""The synthetic benchmark: determinism, splits, answers that the frames bear out, files that read back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hermes.data.annotations import read_annotations
from hermes.data.wanderer import Wanderer, WorldConfig, sample_stream, write_wanderer
from hermes.data.wanderer.questions import History, ask
from hermes.data.wanderer.rendering import render
from hermes.data.wanderer.world import COLOURS, CORNERS, PLACES, SHAPES, SPLITS, codes, object_name, split_of
from hermes.errors import InputError, SettingError
from hermes.video import open_source

LOOKS = {int(row[0]): tuple(int(x) for x in row[1:]) for row in codes()}


def asked(kind: str, *, streams: int = 40, choices: int = 0, **world: float):
    """Questions of a kind, each with what its stream showed: (question, [(place, object, corner)])."""
    rng = np.random.default_rng(0)
    for i in range(streams):
        stream = sample_stream(WorldConfig(**world), "test", 3, i)
        time = int(rng.integers(10, stream.length + 1))
        question = ask(kind, History(stream, time), rng, choices)
        if question is not None:
            yield question, [LOOKS[code] for code in stream.codes[:time].tolist()]


def test_streams_are_seeded_and_differ():
    one, same, other = (Wanderer(seed=seed, streams=3, world=WorldConfig(length=40))[2] for seed in (5, 5, 6))
    assert one == same
    assert one.stream != other.stream
    assert [frame.time for frame in one.frames()] == list(range(40))
    assert all((a.image == b.image).all() for a, b in zip(one.frames(), same.frames(), strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_objects_stand_only_where_their_split_allows(split):
    pairs = set()
    for i in range(30):
        for place, obj, _ in (
            LOOKS[code] for code in sample_stream(WorldConfig(), split, 0, i).codes.tolist()
        ):
            if obj >= 0:
                pairs.add((place, obj))
    assert pairs
    assert {split_of(*pair) for pair in pairs} == {split}


def test_difficulty_settings_do_what_they_say():
    def scenes(**world):
        return [s for i in range(30) for s in sample_stream(WorldConfig(**world), "train", 0, i).scenes]

    assert all(scene.obj < 0 for scene in scenes(empty=1.0))
    assert all(scene.shown[1] - scene.shown[0] == 1 for scene in scenes(empty=0.0, flash=1.0))
    assert all(s.shown == (s.start, s.end) for s in scenes(empty=0.0, flash=0.0))
    assert max(scene.end - scene.start for scene in scenes(scene=10, length=200)) == 15
    once = sample_stream(WorldConfig(length=40), "train", 0, 0).scenes
    assert len({scene.place for scene in once}) == len(once)
    again = sample_stream(WorldConfig(length=40, revisit=0.9), "train", 0, 0).scenes
    assert len({scene.place for scene in again}) < len(again)


def test_an_hour_keeps_every_place_as_it_was():
    stream = sample_stream(WorldConfig(length=3600, scene=20), "test", 0, 0)
    there: dict[int, set] = {}
    for place, obj, corner in (LOOKS[code] for code in stream.codes.tolist()):
        if obj >= 0:
            there.setdefault(place, set()).add((obj, corner))
    assert all(len(objects) == 1 for objects in there.values())
    assert all(a.place != b.place for a, b in zip(stream.scenes, stream.scenes[1:], strict=False))


@pytest.mark.parametrize("attribute", ["colour", "shape", "corner"])
@pytest.mark.parametrize("when", ["now", "past"])
def test_attributes_are_those_on_screen(when, attribute):
    count = 0
    for question, seen in asked(f"{when}_{attribute}"):
        start, end = question.evidence
        place, obj, corner = seen[end - 1]
        value = {
            "colour": COLOURS[obj // len(SHAPES)],
            "shape": SHAPES[obj % len(SHAPES)],
            "corner": CORNERS[corner],
        }
        assert question.answer == value[attribute]
        assert all(look == (place, obj, corner) for look in seen[start:end])
        if when == "past":
            assert PLACES[place] in question.text
            assert seen[-1][0] != place
            assert all(p != place or o < 0 for p, o, _ in seen[end:])
        else:
            assert question.age == 0
        count += 1
    assert count > 10


def test_hallucination_questions_are_half_yes_and_true():
    for kind in ("saw_object", "visited"):
        answers = []
        for question, seen in asked(kind, streams=300):
            word = question.text.split()[2] if kind == "saw_object" else question.text.split()[-1].strip("?")
            names = {object_name(o) for _, o, _ in seen if o >= 0} | {PLACES[place] for place, _, _ in seen}
            assert question.answer == ("yes" if word in names else "no")
            answers.append(question.answer)
        assert 0.4 < answers.count("yes") / len(answers) < 0.6


def test_looks_differ_by_more_than_noise():
    looks = codes("test")[:, 0]
    # The same seed: objects stand at the same pixels in both.
    clean = render(looks, np.random.default_rng(0), noise=0, clutter=0)
    noisy = render(looks, np.random.default_rng(0), noise=4, clutter=0)
    assert clean.shape == (400, 32, 32, 3)
    assert len({image.tobytes() for image in clean}) == 400
    assert (noisy != clean).any()
    # [400, 400] squared distances: every noisy picture is nearest to its own.
    one, two = (pictures.reshape(len(looks), -1).astype(float) for pictures in (noisy, clean))
    apart = (one**2).sum(1)[:, None] - 2 * one @ two.T + (two**2).sum(1)
    assert (apart.argmin(1) == np.arange(len(looks))).all()


def test_files_read_back(tmp_path):
    bench = Wanderer(streams=2, questions=8, choices=0.5, world=WorldConfig(length=20))
    path = write_wanderer(bench, tmp_path)
    raw = json.loads(path.read_text())
    assert raw[0]["video_path"] == "videos/test_0_00000.mp4"
    clips = read_annotations(path)
    for walk, clip in zip((bench[0], bench[1]), clips, strict=True):
        assert [q.question for q in clip.questions] == [q.text for q in walk.questions]
        assert [q.time for q in clip.questions] == [q.time for q in walk.questions]
        assert [q.choices for q in clip.questions] == [q.options for q in walk.questions]
        assert [q.extra["kind"] for q in clip.questions] == [q.kind for q in walk.questions]
        with open_source(clip.video, fps=1) as source:
            decoded = [frame.image for frame in source]
        assert len(decoded) == 20
        for frame, image in zip(walk.frames(), decoded, strict=True):
            small = image.reshape(32, 4, 32, 4, 3).mean((1, 3))
            assert np.abs(small - frame.image).mean() < 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON list of videos"),
        ('[{"video_path": "a.mp4"}]', "video 0: needed"),
        ('[{"video_path": "a", "conversations": [{"question": "Q?"}]}]', "video 0, question 0"),
        (
            '[{"video_path": "a", "conversations": '
            '[{"question": "Q?", "answer": "c", "choices": ["a", "b"]}]}]',
            "none of the choices",
        ),
        (
            '[{"video_path": "a", "conversations": [{"question": "Q?", "answer": "c", "end_time": "x"}]}]',
            "end_time",
        ),
    ],
)
def test_broken_annotations_say_where(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_annotations(tmp_path / "a.json")


def test_a_mistyped_kind_is_named():
    with pytest.raises(SettingError, match="Did you mean 'order'"):
        Wanderer(kinds=["ordr"])
