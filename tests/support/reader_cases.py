"""Small files of every format that a reader of benchmarks knows, and one with every fault."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

LENGTH = 12  # seconds of every video
RED_OR_BLUE = ["A. red", "B. blue"]


class Case(NamedTuple):
    """A small file of one format; rows are (question, time, expected, task, category, frames seen)."""

    name: str
    content: Any
    rows: list[tuple[str, float, str, str, str, int]]
    settings: tuple[str, ...] = ()
    file: str = "annotations.json"
    beside: dict[str, Any] = {}  # noqa: RUF012 (a NamedTuple's default, never changed)


def shared(path: str, *questions: dict[str, Any], **video: Any) -> dict[str, Any]:
    return {"video_id": path, "video_path": path, **video, "conversations": list(questions)}


def ask(text: str, answer: Any = "blue", choices: Any = ("red", "blue"), **more: Any) -> dict[str, Any]:
    return {"question": text, "answer": answer, "choices": list(choices), **more}


STREAMINGBENCH_ROW = {"question_id": "Real_sample_7_1", "task_type": "Counting", "question": "How many?"} | {
    "time_stamp": "00:00:05",
    "answer": "B",
    "options": str(["A. one", "B. two"]),
}
EGO_QUESTION = {"q_uid": "a", "question": "What for?", **{f"option {i}": f"reason {i}" for i in range(5)}}
RVS_ROW = {"video_id": "000001", "id": "q1", "question": "Where?", "answer": "At home."}

CASES = {
    "streamingbench": Case(
        "streamingbench",
        [
            shared(
                "/x/y/a.mp4", ask("Late?", end_time=8.5, task="Counting"), ask("Early?", "red", end_time=3.0)
            )
        ],
        [("Early?", 3.0, "red", "StreamingBench", "", 3), ("Late?", 8.5, "blue", "Counting", "", 9)],
    ),
    "streamingbench_json": Case(
        "streamingbench",
        [
            {
                "time": f"[0:00:0{time - 1} - 0:00:0{time + 1}]",
                "video_path": "./a.mp4",
                "questions": [
                    {
                        "task_type": "Event Understanding",
                        "question": f"What at {time}?",
                        "time_stamp": f"0:00:0{time}",
                        "answer": "A",
                        "options": RED_OR_BLUE,
                    }
                ],
            }
            for time in (6, 2)
        ],
        [(f"What at {time}?", float(time), "red", "Event Understanding", "", time) for time in (2, 6)],
    ),
    "streamingbench_csv": Case(
        "streamingbench",
        [STREAMINGBENCH_ROW],
        [("How many?", 5.0, "two", "Counting", "", 5)],
        file="real.csv",
    ),
    "ovobench": Case(
        "ovobench",
        [
            shared("/x/c.mkv", ask("Now?", end_time=0.03), task="OCR"),
            shared("/x/sub/b.webm", ask("Before?", end_time=7), task="EPM", video_id="other"),
        ],
        [("Now?", 0.03, "blue", "OCR", "real-time", 1), ("Before?", 7.0, "blue", "EPM", "backward", 7)],
    ),
    "ovobench_json": Case(
        "ovobench",
        [
            {
                "id": 0,
                "task": "ASI",
                "video": "sub/b.webm",
                "realtime": 4.5,
                "question": "Which step?",
                "options": ["first", "second", "third"],
                "gt": 2,
            },
            {"id": 1, "task": "REC", "video": "sub/b.webm", "test_info": [{"realtime": 1}, {"realtime": 2}]},
        ],
        [("Which step?", 4.5, "third", "ASI", "backward", 5)],
    ),
    "rvs_ego": Case(
        "rvs_ego",
        [
            shared(
                "/x/a.mp4",
                {"question": "Who?", "answer": "A cook.", "start_time": 0, "end_time": 6},
                duration=float(LENGTH),
            )
        ],
        [("Who?", 6.0, "A cook.", "RVS-Ego", "", 6)],
    ),
    "rvs_ego_json": Case(
        "rvs_ego",
        [RVS_ROW],
        [("Where?", 12.0, "At home.", "RVS-Ego", "", 12)],
        ("data.replace={'000001': a}",),
    ),
    "rvs_ego_clips": Case(
        "rvs_ego",
        [RVS_ROW | {"answer_type": "place"}],
        [("Where?", 9.0, "At home.", "place", "", 5)],
        ("data.clips=FOLDER/clips.json",),
        beside={
            "clips.json": [{"video_id": "000001", "original_video": "a", "start_time": 4, "end_time": 9}]
        },
    ),
    "rvs_movie": Case(
        "rvs_movie",
        [
            shared(
                "/x/c.npy",
                {"question": "Why?", "answer": "For love.", "start_time": 3, "end_time": 8},
                {"question": "And then?", "answer": "Rain.", "start_time": 8, "end_time": 10},
                duration=LENGTH,
                clip_start_time=3,
                clip_end_time=10,
            )
        ],
        [
            ("Why?", 8.0, "For love.", "RVS-Movie", "", 5),
            ("And then?", 10.0, "Rain.", "RVS-Movie", "", 7),
        ],
    ),
    "videomme": Case(
        "videomme",
        [
            shared(
                "/x/a.mp4", ask("What?", question_type="Counting"), duration=12.0, duration_category="short"
            )
        ],
        [("What?", 12.0, "blue", "Counting", "short", 12)],
    ),
    "videomme_json": Case(
        "videomme",
        [
            {
                "video_id": "001",
                "duration_category": "long",
                "url": "https://www.youtube.com/watch?v=c",
                "questions": [
                    {
                        "question_id": f"001-{i}",
                        "task_type": "OCR",
                        "question": f"What {i}?",
                        "choices": RED_OR_BLUE,
                        "answer": "B",
                    }
                    for i in range(2)
                ],
            }
        ],
        [(f"What {i}?", 12.0, "blue", "OCR", "long", 12) for i in range(2)],
        ("data.suffix=.mkv",),
    ),
    "videomme_table": Case(
        "videomme",
        [
            {
                "video_id": "001",
                "duration": "medium",
                "videoID": "a",
                "question_id": "001-1",
                "task_type": "OCR",
                "question": "Which?",
                "options": RED_OR_BLUE,
                "answer": "A",
            }
        ],
        [("Which?", 12.0, "red", "OCR", "medium", 12)],
        file="test.jsonl",
    ),
    "mvbench": Case(
        "mvbench",
        [
            shared(
                "/x/v/tvqa/frames_fps3_hq/show_01",
                ask("Why?"),
                video_id=1601,
                fps=3,
                clip=[2.5, 9.0],
                subtitle="(A:)Well.",
            ),
            shared("/x/v/a.mp4", ask("What next?"), video_id=601),
        ],
        [
            # Asked when the last second that was sampled has passed.
            ("Why?", 9.5, "blue", "Episodic Reasoning", "", 7),
            ("What next?", 12.0, "blue", "v", "", 12),
        ],
    ),
    "mvbench_folder": Case(
        "mvbench",
        {
            "episodic_reasoning.json": [
                {"video": "show_01", "question": "Why?", "candidates": ["x", "y"], "answer": "y"}
                | {"start": 6.0, "end": 8.0}
            ],
            "scene_transition.json": [
                {"video": "a.mp4", "question": "Where to?", "candidates": ["in", "out"], "answer": "in"}
            ],
        },
        [
            ("Why?", 8.0, "y", "Episodic Reasoning", "", 2),
            ("Where to?", 12.0, "in", "Scene Transition", "", 12),
        ],
        ("data.replace={'^scene_qa/video/': ''}",),
        file="json",
    ),
    "egoschema": Case(
        "egoschema",
        [shared("a.mp4", ask("What for?", "3", ["1", "2", "3", "4", "5"]))],
        [("What for?", 12.0, "3", "EgoSchema", "", 12)],
    ),
    "egoschema_json": Case(
        "egoschema",
        [EGO_QUESTION, {**EGO_QUESTION, "q_uid": "unknown"}],
        [("What for?", 12.0, "reason 3", "EgoSchema", "", 12)],
        ("data.answers=FOLDER/subset_answers.json",),
        beside={"subset_answers.json": {"a": 3}},
    ),
}


def written(case: Case, folder: Path) -> Path:
    """The annotation file of a case, and what belongs to it."""
    path = folder / case.file
    if path.suffix == "":
        path.mkdir()
        for name, rows in case.content.items():
            (path / name).write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(case.content[0]))
            table.writeheader()
            table.writerows(case.content)
    else:
        lines = [json.dumps(row) for row in case.content]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else json.dumps(case.content))
    for name, content in case.beside.items():
        (folder / name).write_text(json.dumps(content))
    return path


def settings(case: Case, folder: Path, videos: Path) -> list[str]:
    more = [text.replace("FOLDER", str(folder)) for text in case.settings]
    return [f"data={case.name}", f"data.annotations={written(case, folder)}", f"data.videos={videos}", *more]


def save(folder: Path, content: Any, name: str = "annotations.json") -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


def faulty() -> list[Any]:
    """One entry for every fault, and three good ones."""
    return [
        shared("/x/a.mp4", ask("Good?", end_time=5), video_id="good"),
        shared("/x/a.mp4", ask("Good?", end_time=5), video_id="good"),  # asked twice
        shared("/x/gone.mp4", ask("Which?"), video_id="good"),  # missing, and another's id
        shared("/x/a.mp4", ask("Green?", "green", end_time=5)),
        shared("/x/a.mp4", ask("Twice?", choices=["blue", "red", "blue"], end_time=6, question_id="q")),
        shared("/x/a.mp4", ask("Single?", choices=["blue"], end_time=6, question_id="q")),
        shared("/x/a.mp4", ask("Before?", end_time=-1)),
        shared("/x/a.mp4", ask("At once?", end_time=0)),
        shared("/x/a.mp4", ask("After?", end_time=40)),
        shared("/x/a.mp4", ask("When?", end_time="soon")),
        shared("/x/a.mp4", ask("Backwards?"), clip=[9, 4]),
        shared("/x/a.mp4", ask("Evidence?", end_time=5, evidence=[4, 2])),
        shared("/x/a.mp4", ask("Options?", choices=["blue", 3], end_time=5)),
        shared("/x/a.mp4", ask("  ", end_time=5)),
        shared("/x/broken.mp4", ask("What?")),
        {"video_path": "/x/a.mp4"},
        shared("/x/a.mp4", {"question": "No answer?"}),
    ]


KINDS = {
    "answers not among the options": 1,
    "bad options": 2,
    "bad times": 6,
    "broken entries": 2,
    "broken questions": 1,
    "duplicate ids": 2,
    "duplicate options": 1,
    "missing videos": 1,
    "questions asked twice": 1,
    "unreadable videos": 1,
}
