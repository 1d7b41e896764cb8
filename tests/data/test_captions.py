"""Streams of text with questions, from a folder of captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermes.data.readers import Captions
from hermes.errors import InputError
from hermes.registry import registry
from hermes.video import VideoConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "talks"
    folder.mkdir()
    cues = "".join(f"{i}\n00:00:{i:02},000 --> 00:00:{i + 1:02},000\ncue {i}\n\n" for i in range(1, 9))
    (folder / "a.srt").write_text(cues)
    (folder / "b.jsonl").write_text('{"time": 2, "text": "It rains."}\n{"time": 30, "text": "It stops."}\n')
    asked = [
        {"question": "Which cue?", "time": 5, "choices": ["one", "two"], "answer": "two", "task": "now"},
        {"question": "Who?", "answer": "a man", "id": "w", "speaker": "B"},
    ]
    (folder / "a.questions.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (folder / "b.questions.jsonl").write_text('{"question": "What now?", "time": 31, "answer": "sun"}\n')
    return folder


def test_a_folder_of_captions_and_questions(folder):
    data = registry("data").get("captions")(annotations=folder)
    assert isinstance(data, Captions)
    assert [Path(data.clip(i).video).name for i in range(len(data))] == ["a.srt", "b.jsonl"]
    first, second = data.clip(0).questions
    assert (first.question, first.time, first.task) == ("Which cue?", 5.0, "now")
    assert tuple(first.choices) == ("one", "two")
    assert second.time is None
    assert second.extra["speaker"] == "B"
    with data.frames(0, VideoConfig(start=2, end=4), 1.0) as frames:
        assert [(frame.time, frame.text) for frame in frames] == [(2.0, "cue 2"), (3.0, "cue 3")]
    survey = data.survey()
    assert not survey.problems
    assert survey.questions == 3
    before = data.fingerprint()
    (folder / "b.questions.jsonl").write_text('{"question": "What?", "answer": "sun"}\n')
    assert Captions(annotations=folder).fingerprint() != before


def test_the_folder_may_be_the_one_where_one_stands_and_captions_may_lie_elsewhere(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert not Captions(annotations=Path()).survey().problems
    (folder.parent / "shown").mkdir()
    for name in ("a.srt", "b.jsonl"):
        (folder / name).rename(folder.parent / "shown" / name)
    data = Captions(annotations=folder, videos=folder.parent / "shown")
    assert [len(data.clip(i).questions) for i in range(2)] == [2, 1]


def test_faults_are_named_and_the_rest_is_read(folder):
    (folder / "c.questions.jsonl").write_text('{"question": "Late?", "answer": "no"}\n')
    (folder / "d.questions.jsonl").write_text("{\n")
    (folder / "b.questions.jsonl").write_text('[1]\n{"question": "What?", "time": 99, "answer": "sun"}\n')
    data = Captions(annotations=folder, missing="skip")
    said = [f"{problem.where}: {problem.what}" for problem in data.survey().problems]
    for part in ("b.questions.jsonl, line 1: [1]; needed", "d.questions.jsonl, line 1: not JSON", "c.srt"):
        assert any(part in one for one in said), (part, said)
    assert len(data.clip(0).questions) == 2
    with pytest.raises(InputError, match=r"1 of 3 videos .* are missing, such as .*c\.srt"):
        Captions(annotations=folder).clip(0)
    with pytest.raises(InputError, match="needed: a folder of captions"):
        Captions(annotations=folder / "a.srt").clip(0)
