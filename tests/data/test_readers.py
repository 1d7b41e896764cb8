"""Readers of benchmarks: both formats of each end to end, faults, paths, and the real files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hermes.backbone import load_backbone
from hermes.data.annotated import Annotated
from hermes.data.annotations import read_annotations, write_annotations
from hermes.data.clips import Clip, TimedQuestion
from hermes.data.readers import EgoSchema, MVBench, OvoBench, RvsEgo, RvsMovie, StreamingBench, VideoMME
from hermes.dialogue import is_correct
from hermes.errors import InputError, SettingError
from hermes.evaluation import Journal, eval_config, evaluate
from hermes.video import VideoConfig, write_video
from tests.support.reader_cases import (
    CASES,
    EGO_QUESTION,
    KINDS,
    LENGTH,
    RVS_ROW,
    ask,
    faulty,
    save,
    settings,
    shared,
    written,
)


def pictures(count: int) -> np.ndarray:
    """Grey frames, each a step brighter than the one before."""
    steps = np.arange(count, dtype=np.uint8)[:, None, None, None] * 10
    return np.broadcast_to(steps, (count, 64, 64, 3)).copy()


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """a.mp4, sub/b.webm, c.mkv at 2 fps; c.npy at 1 fps; folder frames/ at 3 fps; all of 12 s."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    for name in ("a.mp4", "sub/b.webm", "c.mkv", "sample_7_real.mp4"):
        write_video(folder / name, pictures(2 * LENGTH), fps=2)
    np.save(folder / "c.npy", pictures(LENGTH))
    (folder / "tvqa/frames_fps3_hq/show_01").mkdir(parents=True)
    for i, picture in enumerate(pictures(3 * LENGTH)):
        Image.fromarray(picture).save(folder / f"tvqa/frames_fps3_hq/show_01/{i + 1:05d}.png")
    return folder


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


@pytest.mark.model
@pytest.mark.parametrize("name", CASES)
def test_every_format_runs(name, videos, embedded, tmp_path):
    case = CASES[name]
    run = eval_config(
        [
            *settings(case, tmp_path, videos),
            "video.fps=1",
            "policy=fifo",
            "policy.budget=24",
            "generation.max_new_tokens=2",
        ]
    )
    survey = run.data.survey()
    assert not survey.problems
    assert survey.questions == survey.asked == len(case.rows)
    evaluate(run, tmp_path / "out", backbone=embedded)
    rows = list(Journal(tmp_path / "out").rows.values())
    # By video in the order of the file, within a video by time.
    assert [
        (row.question, row.time_s, row.expected, row.task, row.category, row.frames_seen) for row in rows
    ] == [(text, pytest.approx(time), *rest) for text, time, *rest in case.rows]
    assert all(Path(row.video).exists() for row in rows)
    for row in rows:
        assert row.chance == (1 / len(row.choices) if row.choices else None)
        assert row.expected in row.choices or not row.choices


def test_a_table_in_parquet(videos, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    case = CASES["videomme_table"]
    parquet.write_table(arrow.Table.from_pylist(case.content), tmp_path / "test.parquet")
    bench = VideoMME(tmp_path / "test.parquet", videos)
    assert not bench.survey().problems
    assert bench.clip(0).questions[0].choices == ("red", "blue")
    (tmp_path / "broken.parquet").write_text("PAR")
    with pytest.raises(InputError, match="as Parquet"):
        VideoMME(tmp_path / "broken.parquet", videos).survey()


def test_a_video_is_one_stream_for_all_its_questions(tmp_path, videos):
    content = [shared("/x/a.mp4", ask(f"At {time}?", end_time=time), video_id=time) for time in (9, 3, 6)]
    content += [shared("/x/c.mkv", ask("Other?", end_time=1))]
    bench = OvoBench(save(tmp_path, content), videos)
    assert len(bench) == 2
    assert [question.time for question in bench.clip(0).questions] == [3.0, 6.0, 9.0]


def test_parts_of_a_video_are_streams_of_their_own(tmp_path, videos):
    parts = [[0.0, 4.0], [4.0, 8.5], [0.0, 4.0]]
    content = [shared("/x/a.mp4", ask(f"{i}?"), clip=part) for i, part in enumerate(parts)]
    bench = Annotated(save(tmp_path, content), videos)
    assert [(clip.start, clip.end) for clip in (bench.clip(0), bench.clip(1))] == [(0.0, 4.0), (4.0, 8.5)]
    assert [question.question for question in bench.clip(0).questions] == ["0?", "2?"]
    assert bench.survey().videos == 1
    assert bench.survey().clips == len(bench) == 2

    def times(config: VideoConfig) -> list[float]:
        with bench.frames(1, config, 2.0) as frames:
            return [frame.time for frame in frames]

    assert times(VideoConfig()) == [4 + i / 2 for i in range(9)]
    assert times(VideoConfig(start=6, end=7)) == [6.0, 6.5]
    # A file that holds one of the parts alone cannot hold the other.
    cut = Annotated(save(tmp_path, content), videos, cut=True)
    assert [question.question for question in cut.clip(0).questions] == ["0?", "2?"]
    assert [problem.kind for problem in cut.survey().problems] == ["bad times"]


def test_cut_videos_begin_at_the_start_of_their_clip(tmp_path, videos):
    asked = {"question": "Why?", "answer": "So.", "start_time": 103, "end_time": 108.5}
    video = shared("/x/a.mp4", asked, duration=900, clip_start_time=100, clip_end_time=110)
    bench = RvsMovie(save(tmp_path, [video]), videos, cut=True)
    assert not bench.survey().problems
    (question,) = bench.clip(0).questions
    assert (question.time, question.evidence) == (8.5, (3.0, 8.5))
    late = RvsMovie(save(tmp_path, [video]), videos).survey().problems
    assert [problem.kind for problem in late] == ["bad times"]
    assert "it ends at 12.0 s" in late[0].what


def test_frames_count_at_their_own_rate(tmp_path, videos):
    bench = Annotated(save(tmp_path, [shared("c.npy", ask("What?"))]), videos)
    for rate, seconds in ((1.0, 12), (2.0, 6)):
        bench.source_fps = rate
        with bench.frames(0, VideoConfig(), 0.5) as frames:
            assert [frame.time for frame in frames] == list(range(0, seconds, 2))


@pytest.fixture
def bad(tmp_path, videos) -> Path:
    """A folder with a.mp4 and broken.mp4."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return folder


def test_every_fault_is_found_and_none_stops_the_reading(tmp_path, bad, caplog):
    bench = Annotated(save(tmp_path, faulty()), bad)
    survey = bench.survey()
    assert Counter(problem.kind for problem in survey.problems) == KINDS
    assert (survey.videos, survey.questions, survey.asked) == (3, 15, 7)
    assert all("a.mp4" in p.where for p in survey.problems if p.kind == "bad times")
    bench.missing = "skip"
    assert [question.question for question in bench.clip(0).questions] == [
        "Good?",
        "Good?",
        "Evidence?",
        "Twice?",
        "After?",
    ]
    assert "8 of 15 questions and 2 broken entries are left out" in caplog.text
    assert "1 missing videos" in caplog.text


def test_the_strict_reader_stops_at_the_first_fault_that_matters(tmp_path):
    with pytest.raises(InputError, match=r"video 3, question 0 \(a.mp4\): the answer 'green' is none"):
        read_annotations(save(tmp_path, faulty()))


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({}, "b/c.mp4"),
        ({"strip": 1}, "a/b/c.mp4"),
        ({"strip": 9}, "c.mp4"),
        ({"replace": {r"\.mp4$": ".npy", "^/x/a": "/x/a/d"}}, "b/c.npy"),
    ],
)
def test_paths_map_under_the_folder(tmp_path, more, path):
    content = [shared(name, ask("What?")) for name in ("/x/a/b/c.mp4", "/x/a/e.mp4", "relative/f.mp4")]
    bench = Annotated(save(tmp_path, content), tmp_path / "videos", **more)
    found = [problem.where for problem in bench.survey().problems]
    assert found[0] == str(tmp_path / "videos" / path)
    relative = "f.mp4" if more.get("strip") else "relative/f.mp4"
    assert found[2] == str(tmp_path / "videos" / relative).replace(".mp4", Path(path).suffix)


def test_without_a_folder_paths_are_as_they_are(tmp_path):
    content = [shared(name, ask("What?")) for name in ("/x/a.mp4", "b.mp4")]
    found = Annotated(save(tmp_path, content)).survey().problems
    assert [problem.where for problem in found] == ["/x/a.mp4", str(tmp_path / "b.mp4")]


def test_missing_videos_stop_a_run_unless_they_are_skipped(tmp_path, videos, embedded):
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "c.mkv").write_bytes((videos / "c.mkv").read_bytes())
    path = save(tmp_path, [shared(f"/x/{name}", ask("What?", end_time=2)) for name in ("a.mp4", "c.mkv")])
    given = [f"data.annotations={path}", f"data.videos={folder}", "generation.max_new_tokens=1"]
    refused = eval_config(["data=videomme", *given])
    with pytest.raises(InputError, match=r"1 of 2 videos .*in the file: '/x/a.mp4'; data.strip is 1"):
        len(refused.data)
    run = eval_config(["data=videomme", *given, "data.missing=skip", "policy=fifo"])
    assert evaluate(run, tmp_path / "out", backbone=embedded).overall.n == 1
    # Once it is there, the same run asks what it has left out.
    (folder / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    run = eval_config(["data=videomme", *given, "data.missing=skip", "policy=fifo"])
    assert evaluate(run, tmp_path / "out", backbone=embedded).overall.n == 2
    assert sorted(Journal(tmp_path / "out").rows) == [(0, 0, 0.0), (1, 0, 0.0)]


def test_all_videos_missing_is_no_run(tmp_path):
    bench = Annotated(save(tmp_path, [shared("a.mp4", ask("What?"))]), tmp_path, missing="skip")
    with pytest.raises(InputError, match="1 of 1 videos"):
        len(bench)


def test_forward_tasks_are_refused_with_a_reason(tmp_path, videos, caplog):
    path = written(CASES["ovobench_json"], tmp_path)
    bench = OvoBench(path, videos)
    survey = bench.survey()
    assert survey.questions == 1
    assert not survey.problems
    assert any("2 questions of the tasks REC are refused: a forward task" in note for note in survey.notes)
    assert len(bench) == 1
    assert "refused" in caplog.text
    with pytest.raises(
        SettingError, match=r"data\.tasks: got 'REC'; allowed: ASI\. It is refused: a forward"
    ):
        len(OvoBench(path, videos, tasks=["REC"]))


def test_tasks_are_chosen_by_name(tmp_path, videos):
    asked = [ask(f"{task}?", end_time=5, task=task) for task in ("Counting", "Reading")]
    path = save(tmp_path, [shared("a.mp4", *asked)])
    assert StreamingBench(path, videos, tasks=["Reading"]).clip(0).questions[0].question == "Reading?"
    with pytest.raises(SettingError, match="Did you mean 'Reading'"):
        len(StreamingBench(path, videos, tasks=["Readng"]))


def test_options_that_read_the_same_are_right_together(tmp_path, videos):
    content = [shared("a.mp4", ask("Which?", "blue", ["blue", "red", "blue", "green"]))]
    bench = VideoMME(save(tmp_path, content), videos)
    (question,) = bench.clip(0).questions
    assert question.choices == ("blue", "red", "blue", "green")
    assert question.extra["chance"] == 0.5
    right = [letter for letter in "ABCD" if is_correct(question.answer, letter, question.choices)]
    assert right == ["A", "C"]


def test_answers_by_letter_mean_the_letter_first(tmp_path, videos):
    row = {"video_id": "1", "videoID": "a", "question": "Which?", "answer": "A", "options": ["A. B", "B. A"]}
    assert VideoMME(save(tmp_path, [row]), videos).clip(0).questions[0].answer == "B"
    content = [shared("a.mp4", ask("Which?", "A", ["B", "A"]))]
    assert VideoMME(save(tmp_path, content), videos).clip(0).questions[0].answer == "A"


def test_without_public_answers_nothing_is_scored(tmp_path, videos):
    (question,) = EgoSchema(save(tmp_path, [EGO_QUESTION]), videos).clip(0).questions
    assert question.answer == ""
    assert len(question.choices) == 5


def test_open_questions_are_marked(tmp_path, videos):
    assert RvsEgo(written(CASES["rvs_ego"], tmp_path), videos).clip(0).questions[0].extra["open_ended"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: StreamingBench(folder / "none.json"), "No such file"),
        (lambda folder: StreamingBench(folder), "a folder; needed"),
        (lambda folder: MVBench(folder), "no JSON file in this folder"),
        (lambda folder: VideoMME(save(folder, {"a": 1})), "needed: a list of objects with 'video_id'"),
        (lambda folder: OvoBench(save(folder, [])), "or of videos with 'video_path'"),
        (lambda folder: OvoBench(save(folder, [{"id": 1}])), "no question in it that can be asked"),
        (
            lambda folder: EgoSchema(save(folder, [EGO_QUESTION]), answers=save(folder, [1], "b.json")),
            "q_uid",
        ),
        (lambda folder: RvsEgo(save(folder, [RVS_ROW]), clips=save(folder, [], "b.json")), "no question"),
        (lambda folder: VideoMME(save(folder, [EGO_QUESTION]), format="shared"), "no question"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, make: Callable[[Path], Annotated], message):
    with pytest.raises(InputError, match=message):
        len(make(tmp_path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "publshed"}, "Did you mean 'published'"),
        ({"missing": "skp"}, "Did you mean 'skip'"),
        ({"replace": {"(": ""}}, "a regular expression"),
    ],
)
def test_wrong_settings_say_so(tmp_path, given, message):
    with pytest.raises(SettingError, match=message):
        OvoBench(tmp_path / "a.json", **given)


def test_bounds_survive_writing(tmp_path):
    question = TimedQuestion("Why?", "b", ("a", "b"), 8.0, "task", (3.0, 8.0), {"category": "backward"})
    clip = Clip(str(tmp_path / "a.mp4"), (question,), "one", 20.0, 2.5, 9.0, 3.0)
    write_annotations(tmp_path / "a.json", [clip])
    (back,) = read_annotations(tmp_path / "a.json")
    assert back.questions[0].extra.pop("chance") == 0.5
    assert back == clip


REAL = [
    (StreamingBench, "streamingbench/streamingbench_realtime.json", 498, 2495, {"duplicate options": 1}),
    (
        OvoBench,
        "ovobench/ovobench_realtime_backeward.json",
        512,
        1468,
        {"duplicate options": 3, "questions asked twice": 3},
    ),
    (RvsEgo, "rvs/ego/ego4d_oe.json", 10, 1465, {"questions asked twice": 1}),
    (RvsMovie, "rvs/movie/movienet_oe.json", 22, 1905, {}),
    (VideoMME, "videomme/videomme.json", 900, 2700, {"duplicate options": 10}),
    (MVBench, "mvbench/mvbench.json", 3687, 4000, {"bad options": 5}),
]
TASKS = {StreamingBench: 10, OvoBench: 9, RvsEgo: 1, RvsMovie: 1, VideoMME: 12, MVBench: 20}


@pytest.mark.parametrize(("reader", "file", "videos", "questions", "problems"), REAL)
def test_the_real_files_are_read_whole(annotations, tmp_path, reader, file, videos, questions, problems):
    bench = reader(annotations / file, tmp_path)
    survey = bench.survey()
    found = Counter(problem.kind for problem in survey.problems)
    assert found.pop("missing videos") == survey.clips
    assert found == problems
    assert (survey.videos, survey.questions) == (videos, questions)
    # Each video is one stream; the only questions left out are those with a single option.
    assert survey.clips == videos - problems.get("bad options", 0)
    assert survey.asked == questions - problems.get("bad options", 0)
    for problem in survey.problems:
        if problem.kind == "missing videos":
            Path(problem.where).parent.mkdir(parents=True, exist_ok=True)
            Path(problem.where).touch()
    asked = [bench.clip(index) for index in range(len(bench))]
    assert len({clip.video for clip in asked}) == len(asked)
    assert len({question.task for clip in asked for question in clip.questions}) == TASKS[reader]
    for clip in asked:
        times = [question.time for question in clip.questions]
        assert times == sorted(times, key=lambda time: float("inf") if time is None else time)
        assert all(question.answer in question.choices or not question.choices for question in clip.questions)
