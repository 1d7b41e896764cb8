"""Annotation files and question files of any content: asked rightly, or refused by name."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from hermes.cli.questions import read_questions
from hermes.data.annotated import Annotated
from hermes.data.annotations import read_annotations
from hermes.data.entries import option_of, seconds
from hermes.errors import InputError, SettingError
from hermes.evaluation import eval_config
from hermes.registry import registry
from tests.support.command_line import hermes
from tests.support.hostile import cases, damaged, mutated
from tests.support.reader_cases import save

READERS = (
    "annotations",
    "egoschema",
    "mvbench",
    "ovobench",
    "rvs_ego",
    "rvs_movie",
    "streamingbench",
    "videomme",
)
QUESTION = {"question": "Which?", "answer": "B", "options": ["A. red", "B. blue"], "time_stamp": "0:00:05"}
# A file that every reader may take for its own: the shared form, and rows of the published ones.
SHARED = [
    {
        "video_id": "a",
        "video_path": "a.mp4",
        "duration": 9.0,
        "fps": 1,
        "clip": [0, 8],
        "conversations": [
            {"question": "Which?", "answer": "blue", "choices": ["red", "blue"], "end_time": 5, "task": "t"},
            {"question": "What?", "answer": "x", "evidence": [1, 2], "open_ended": True, "chance": 0.5},
        ],
    }
]
PUBLISHED = {
    "egoschema": [{"q_uid": "a", "question": "Q?", "option 0": "x", "option 1": "y", "answer": 1}],
    "mvbench": [
        {"video": "a.mp4", "question": "Q?", "candidates": ["x", "y"], "answer": "y", "start": 0, "end": 4}
    ],
    "ovobench": [
        {
            "video": "a.mp4",
            "task": "EPM",
            "id": 1,
            "realtime": 4,
            "question": "Q?",
            "options": ["x", "y"],
            "gt": 1,
        }
    ],
    "rvs_ego": [{"video_id": "a", "question": "Q?", "answer": "x", "start_time": 1, "end_time": 3, "id": 4}],
    "rvs_movie": [{"video_id": "a", "question": "Q?", "answer": "x", "answer_type": "t"}],
    "streamingbench": [
        {"video_path": "a.mp4", "questions": [QUESTION]},
        {**QUESTION, "question_id": "q_sample_7_1"},
    ],
    "videomme": [{"video_id": "1", "url": "http://x/?v=a", "duration": "short", "questions": [QUESTION]}],
}


def survey(name: str, path: Path) -> None:
    said = path.name
    try:
        bench = registry("data").get(name)(annotations=path, videos=path.parent)
        bench.survey()
        len(bench)
    except InputError as error:
        said = str(error)
    assert path.name in said


@pytest.mark.parametrize("name", READERS)
def test_damaged_annotations_of_every_reader(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4, 3), np.uint8))
    for content in (SHARED, *([PUBLISHED[name]] if name in PUBLISHED else [])):
        for number, text in enumerate(cases(content, 60, seed=READERS.index(name))):
            path = tmp_path / f"questions.json{'l' if number % 10 == 9 else ''}"
            path.write_bytes(text)
            survey(name, path)


@pytest.mark.thorough
@pytest.mark.parametrize("name", READERS)
def test_damaged_annotations_thoroughly(name: str, tmp_path: Path) -> None:
    for content in (SHARED, *([PUBLISHED[name]] if name in PUBLISHED else [])):
        for text in cases(content, 1000, seed=100 + READERS.index(name)):
            path = tmp_path / "questions.json"
            path.write_bytes(text)
            survey(name, path)


@pytest.mark.parametrize(
    "text",
    [
        "video,question,question\na,b,c\n",
        "video_path,questions\na,b,c\n",
        'question_id,question,time_stamp,options\nsample_1,q,5,"' + "(" * 5000 + '"\n',
        'question_id,question,time_stamp,options\nsample_1,q,5,"[' + "[" * 200_000 + '"\n',
        "question_id\n\0\n",
        '"' + "x" * 200_000 + '"\n',
    ],
)
def test_tables_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"t\.csv"):
        len(registry("data").get("streamingbench")(annotations=path, videos=tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("end_time", 10**400),
        ("end_time", "9" * 400),
        ("end_time", float("inf")),
        ("end_time", [5]),
        ("choices", {"a": 1}),
        ("choices", 0),
        ("choices", ["red", ""]),
        ("answer", ["blue"]),
        ("answer", "purple"),
        ("answer", "C"),
        ("answer", "(A) blue"),
        ("task", ["t"]),
        ("question", "half \ud83d"),
        ("chance", "much"),
        ("open_ended", "false"),
        ("question_id", {"a": 1}),
    ],
)
def test_a_wrong_field_is_named_and_its_question_left_out(field: str, value: object, tmp_path: Path) -> None:
    asked = {"question": "Which?", "answer": "blue", "choices": ["red", "blue"], "end_time": 5}
    content = [{"video_path": "a.mp4", "conversations": [asked, {**asked, field: value}]}]
    path = save(tmp_path, content)
    found = Annotated(path, tmp_path).survey()
    assert (found.questions <= 2, found.asked) == (True, 1)
    wrong = [problem for problem in found.problems if problem.where.startswith("video 0, question 1")]
    assert wrong
    with pytest.raises(InputError, match="video 0, question 1"):
        read_annotations(path)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("how", ["..", "absolute", "link", "folder itself"])
def test_videos_lie_in_their_folder_unless_it_is_allowed(how: str, outside: bool, tmp_path: Path) -> None:
    videos, secret = tmp_path / "videos", tmp_path / "secret.npy"
    videos.mkdir()
    np.save(secret, np.zeros((2, 4, 4, 3), np.uint8))
    (videos / "link.npy").symlink_to(secret)
    named = {"..": "../secret.npy", "absolute": str(secret), "link": "link.npy", "folder itself": "."}[how]
    path = save(tmp_path, [{"video_path": named, "conversations": [{"question": "Q?", "answer": "a"}]}])
    kept = {"strip": 0} if how != "absolute" else {}
    folder = None if how == "absolute" else videos
    # Without a folder of videos it is that of the file.
    bench = Annotated(
        path if folder else save(videos, json.loads(path.read_text())), folder, outside=outside, **kept
    )
    if outside:
        assert len(bench) == 1
        return
    with pytest.raises(InputError, match=r"lie outside of .*data\.outside=true"):
        len(bench)
    assert [problem.kind for problem in bench.survey().problems] == ["videos outside"]


FORMS = [
    "B",
    "b",
    "(B)",
    "(B).",
    "(b)",
    "B.",
    "b)",
    "[B]",
    "B:",
    "lake",
    " Lake ",
    "Lake.",
    "(B) lake",
    "B. lake",
]
FORMS += ["B: lake", "B) Lake.", "b - lake", "B lake"]


@pytest.mark.parametrize("answer", FORMS)
def test_a_key_in_any_form_is_the_same_option(answer: str, tmp_path: Path) -> None:
    from hermes.dialogue import is_correct

    choices = ["river", "lake", "sea"]
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "Which?", "choices": choices, "answer": answer}) + "\n")
    (question,) = read_questions(path)
    assert [is_correct(str(question.answer), letter, choices) for letter in "ABC"] == [False, True, False]
    assert option_of(answer, choices) == option_of(answer, choices, "letter") == "lake"


@pytest.mark.parametrize(
    "answer", ["D", "(D)", "(B) river", "B. sea", "ponds", "", " ", "2", "AB", "A lake", "."]
)
def test_a_key_that_is_none_is_refused(answer: str, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    given = {"question": "Which?", "choices": ["river", "lake", "sea"], "answer": answer}
    path.write_text("\n" + json.dumps(given) + "\n")
    with pytest.raises(InputError, match=r"q\.jsonl:2: the answer .* is none of the choices"):
        read_questions(path)


def test_options_with_letters_of_their_own() -> None:
    assert option_of("A", ["A. red", "B. blue"]) == option_of("red", ["A. red", "B. blue"]) == "A. red"
    # Which is meant, the letter that is written or that of the place?
    assert option_of("A", ["B. red", "A. blue"]) is None
    assert option_of("LAKE", ["Lake", "lake"]) is None


def test_a_question_file_of_any_editor(tmp_path: Path) -> None:
    lines = [{"question": "One\u2028line?"}, {"question": "Two?", "time": 5}]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "q.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [asked.question for asked in read_questions(tmp_path / "q.jsonl")] == ["One\u2028line?", "Two?"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": "half \\ud83d"}', "question holds half a character"),
        (b'{"question": "q", "time": 1' + b"0" * 400 + b"}", "time is"),
        (b'{"question": "q", "time": 1e999}', "the question's time is inf"),
        (b'{"question": "q", "time": Infinity}', "the question's time is inf"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"question": "q", "question": "r"}', "comes twice"),
        (b'{"question": "q\xff"}', "not UTF-8"),
        (b'{"question": "q", "choices": {"a": 1}}', "choices is"),
        (b'{"question": {"a": 1}}', "question is"),
        (b"\0\0\0\0", "not JSON"),
    ],
)
def test_a_line_that_cannot_be_asked_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "q"}\n' + line + b"\n")
    with pytest.raises(InputError, match=message) as caught:
        read_questions(tmp_path / "q.jsonl")
    assert "2" in str(caught.value).partition("q.jsonl")[2]


def test_damaged_question_files(tmp_path: Path) -> None:
    whole = [{"question": "Which?", "choices": ["a", "b"], "answer": "b", "time": 4}, {"question": "What?"}]
    rng, path = random.Random(0), tmp_path / "q.jsonl"
    text = "".join(json.dumps(line) + "\n" for line in whole).encode()
    for number in range(400):
        made = (
            damaged(text, rng)
            if number % 2
            else b"\n".join(json.dumps(mutated(x, rng)).encode() for x in whole)
        )
        path.write_bytes(made)
        said = str(path)
        try:
            read_questions(path)
        except InputError as error:
            said = str(error)
        assert str(path) in said


@pytest.mark.parametrize(
    "given", ["data.streams=999999999999", "data.questions=99999999", "data.world.length=9999999999"]
)
def test_more_than_any_run_can_go_through_is_refused(given: str) -> None:
    with pytest.raises(SettingError, match="at most"):
        eval_config([given])
    assert hermes("validate", "data=wanderer", given).code == 2


def test_times_are_times() -> None:
    assert [seconds(value) for value in ("1" * 400, 10**400, -(10**400), float("nan"), "1e999", "٣")] == [
        None
    ] * 6
