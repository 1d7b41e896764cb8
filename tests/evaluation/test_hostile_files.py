"""Files of a run folder that are damaged or foreign: a named error, never a bare one, never a hang."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes.errors import InputError
from hermes.evaluation import compare_runs, judge_run, summarise, write_report
from hermes.evaluation.judging.judges import WordsJudge
from hermes.evaluation.results.journal import Journal, read_broken, read_run
from hermes.evaluation.results.run_folder import DONE, finish
from hermes.evaluation.sweeps.cells import SweepCell
from hermes.evaluation.sweeps.running import record_of
from tests.support.hostile import VALUES, damaged, mutated
from tests.support.runs import answers, row, write_run

FILES = ("rows.jsonl", "clips.jsonl", "broken.jsonl", "judged.jsonl", "manifest.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    aged = {"age_s": 3.0, "choices": ("a", "b"), "choice": "A", "probabilities": {"A": 0.5, "B": 0.5}}
    folder = write_run(
        tmp_path / "run", [*answers(2, 2), row(5, 0, True, **aged), row(5, 0, False, delay_s=4.0)]
    )
    shown = {"clip": 0, "video": "a", "fps": 1.0, "frames": 2, "indices": [[0, 1]], "size": [4, 4]}
    (folder / "clips.jsonl").write_text(json.dumps(shown) + "\n")
    broken = {"clip": 9, "video": "b", "questions": 2, "error": "gone"}
    (folder / "broken.jsonl").write_text(json.dumps(broken) + "\n")
    judge_run(folder, WordsJudge())
    return folder


def read(folder: Path) -> None:
    """Everything that reads a run, but for its plots."""
    rows, _ = read_run(folder)
    summarise(rows, read_broken(folder)).record()
    compare_runs(folder, folder)
    judge_run(folder, WordsJudge())
    Journal(folder)


def attempt(path: Path, content: bytes, then: Callable[[], object]) -> None:
    path.write_bytes(content)
    said = path.parent.name
    try:
        then()
    except InputError as error:
        said = str(error)
    # The file is named; what compares two runs may find that nothing is left to compare.
    assert path.parent.name in said or "in common" in said


def lines_mutated(text: bytes, rng: random.Random) -> bytes:
    lines = [json.loads(line) for line in text.splitlines()]
    at = rng.randrange(len(lines))
    lines[at] = mutated(lines[at], rng)
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def try_files(run: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    whole = {name: (run / name).read_bytes() for name in FILES}
    for number in range(count):
        name = FILES[number % len(FILES)]
        change = damaged if number % 3 == 0 else lines_mutated
        text = whole[name]
        if name == "manifest.json":
            text = json.dumps(json.loads(text)).encode() + b"\n"
        attempt(run / name, change(text, rng), lambda: read(run))
        for other, content in whole.items():
            (run / other).write_bytes(content)


def test_damaged_files_of_a_run(run: Path) -> None:
    try_files(run, 300, 0)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(1, 6))
def test_damaged_files_of_a_run_thoroughly(run: Path, seed: int) -> None:
    try_files(run, 1000, seed)


@pytest.mark.parametrize("name", [*json.loads(json.dumps(vars(row(0, 0, True))))])
def test_every_field_of_a_row_has_its_type(name: str, tmp_path: Path) -> None:
    line = json.loads(json.dumps(vars(row(0, 0, True))))
    folder = write_run(tmp_path / "run", [row(1, 0, True)])
    for value in ([], {}, [[]], {"a": {}}, float("inf"), 10**400, "\ud800", "1e999"):
        (folder / "rows.jsonl").write_text(json.dumps({**line, name: value}) + "\n")
        said = expected = f"rows.jsonl, line 1: not a row of an evaluation: {name}"
        try:
            summarise(read_run(folder)[0])
        except InputError as error:
            said = str(error)
        assert expected in said


def test_a_page_of_what_can_be_read_is_written(run: Path) -> None:
    rng = random.Random(3)
    whole = (run / "rows.jsonl").read_bytes()
    for _ in range(4):
        attempt(run / "rows.jsonl", lines_mutated(whole, rng), lambda: write_report(run))


def test_the_record_of_a_cell(tmp_path: Path) -> None:
    cell, own = SweepCell({"a": "b"}, (), "h"), tmp_path / "cells" / "h"
    own.mkdir(parents=True)
    record = summarise([*answers(), row(7, 0, True, age_s=2.0), row(7, 0, False, delay_s=4.0)]).record()
    finish(own, {**record, "judge": ""})
    whole, rng = (own / DONE).read_bytes(), random.Random(0)
    assert record_of(cell, tmp_path) is not None
    for number in range(300):
        text = (
            damaged(whole, rng) if number % 3 == 0 else json.dumps(mutated(json.loads(whole), rng)).encode()
        )
        attempt(own / DONE, text, lambda: record_of(cell, tmp_path))
    for value in VALUES:
        (own / DONE).write_text(json.dumps({**json.loads(whole), "overall": value}))
        with pytest.raises(InputError, match=DONE):
            record_of(cell, tmp_path)
