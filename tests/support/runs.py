"""Runs of an evaluation as tests need them: rows and a manifest in a folder, without a model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hermes.evaluation import AnswerRow, Journal
from hermes.evaluation.results.journal import read_run
from tests.support.command_line import write

SETTINGS = """\
policy:
  name: {policy}
  budget: 64
backbone:
  checkpoint: ''
  family: embedded
data:
  name: wanderer
output: {output}
"""


def row(clip: int, number: int, correct: bool | None, **given: Any) -> AnswerRow:
    """One answer; all that is not said is the same in every row."""
    usual: dict[str, Any] = {
        "video": f"videos/{clip}.mp4",
        "task": "EPM",
        "kind": "past_shape",
        "category": "backward",
        "question": f"What shape was it {number}?",
        "choices": (),
        "expected": "square",
        "chance": 0.25,
        "time_s": 10.0 + number,
        "age_s": None,
        "answer": "square" if correct else "disc",
        "choice": None,
        "probabilities": None,
        "frames_seen": 10 + number,
        "tokens_per_layer": (64, 64),
        "memory_bytes": 1000,
        "ttft_ms": 5.0,
    }
    return AnswerRow(clip=clip, number=number, correct=correct, **{**usual, **given})


def write_run(folder: Path, rows: Iterable[AnswerRow], **about: Any) -> Path:
    """A run's folder; ``policy`` and every other entry of its manifest can be said."""
    folder.mkdir(parents=True)
    settings = SETTINGS.format(policy=about.pop("policy", "hermes"), output=folder)
    manifest = {"config_hash": "0" * 16, "weights": "abc", "settings": settings, "seed": 0, "device": "cpu"}
    (folder / "manifest.json").write_text(json.dumps({**manifest, **about}))
    journal = Journal(folder)
    for item in rows:
        journal.add(item)
    return folder


def open_row(clip: int, number: int, answer: str, **given: Any) -> AnswerRow:
    task = ("place", "person")[number % 2]
    about = {"task": task, "kind": task, "category": "", "chance": None, "expected": f"Kitchen {number}."}
    return row(clip, number, None, **{**about, "answer": answer, "open_ended": True, **given})


def answers(clips: int = 3, each: int = 4) -> list[AnswerRow]:
    """Right answers have an even sum of places; one question of another kind, and one without an answer."""
    places = itertools.product(range(clips), range(each))
    found = [open_row(c, n, f"{('kitchen', 'hall')[(c + n) % 2]} {c} {n}") for c, n in places]
    return [*found, row(0, each, True), open_row(1, each, "Who?", expected="")]


def rows_of(folder: Path) -> list[AnswerRow]:
    return read_run(folder)[0]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def experiment(folder: Path, text: str) -> str:
    """The override that chooses an experiment of this content."""
    return f"experiment={write(folder / 'try.yaml', text)}"
