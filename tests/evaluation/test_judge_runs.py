"""Open-ended questions from a benchmark to a table, with a judge and without."""

from __future__ import annotations

import json
import sys
from collections import Counter

import pytest

from hermes.errors import InputError
from hermes.evaluation import Journal, compare_runs, eval_config, judge_run
from hermes.evaluation.judging.judges import WordsJudge
from hermes.evaluation.reports.run_page import write_report
from hermes.evaluation.running.settings import answer_settings, settings_hash
from hermes.evaluation.sweeps.cells import cells_of
from hermes.evaluation.sweeps.running import Outcome, record_of, run_cell, run_cells
from tests.support.chat_server import ChatServer
from tests.support.command_line import hermes, process
from tests.support.reader_cases import save, shared
from tests.support.runs import answers, lines, row, rows_of, write_run
from tests.support.video_files import write_timed

pytest.importorskip("openai")

ANSWERED = {"In the kitchen.": 3, "A cook": 7, "Because it rains": 11}


@pytest.fixture(scope="module")
def rvs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """RVS-Ego in small: two real videos, asked at times of them."""
    folder = tmp_path_factory.mktemp("rvs")
    content = []
    for name in ("a", "b"):
        write_timed(folder / f"{name}.mp4", [1000 * second for second in range(12)])
        questions = [
            {"question": f"What {i}?", "answer": answer, "start_time": 0, "end_time": time}
            for i, (answer, time) in enumerate(ANSWERED.items())
        ]
        content.append(shared(f"/x/{name}.mp4", *questions, duration=12.0))
    data = ["data=rvs_ego", f"data.annotations={save(folder, content)}", f"data.videos={folder}"]
    model = ["backbone=tiny_llava_onevision", "policy.budget=64", "generation.max_new_tokens=4"]
    return [*data, *model, "trainer.accelerator=cpu"]


@pytest.mark.model
def test_without_a_judge_the_run_says_that_nothing_is_scored(rvs, tmp_path):
    folder = tmp_path / "run"
    done = hermes("eval", *rvs, f"output={folder}")
    assert done.code == 0, done.err
    assert "no judge is given: open-ended answers are kept" in done.err
    assert "6 open-ended answers are not scored, because no judge was given." in done.out
    assert f"To have them judged: hermes judge {folder} judge=openai" in done.out
    assert "right %" not in done.out
    rows = rows_of(folder)
    assert [(made.open_ended, made.correct, made.expected) for made in rows] == [
        (True, None, answer) for answer in (*ANSWERED, *ANSWERED)
    ]
    assert "6 open-ended answers are not scored" in write_report(folder).read_text()
    assert "accuracy" not in (folder / "metrics" / "metrics.csv").read_text()
    record = hermes("eval", *rvs, f"output={folder}", "--json").records[0]
    assert (record["overall"]["n"], record["verdicts"]["waiting"], record["unscored"]) == (0, 6, 0)
    judged = hermes("judge", str(folder), "judge=words")
    assert judged.code == 0, judged.err
    assert "judge's scores, 0 to 5" in judged.out
    assert "not scored" not in judged.out
    assert {made.correct for made in rows_of(folder)} <= {True, False}


@pytest.mark.model
def test_a_run_with_a_judge_goes_on_where_either_stopped(rvs, tmp_path):
    folder = tmp_path / "run"
    with ChatServer() as server:
        judge = ["judge=openai", "judge.model=m", f"judge.base_url={server.url}"]
        first = hermes("eval", *rvs, *judge, f"output={folder}", "--json")
        assert first.code == 0, first.err
        whole = rows_of(folder)
        requests = len(server.requests)
        assert first.records[0]["overall"]["n"] == 6
        assert "score/all" in (folder / "metrics" / "metrics.csv").read_text()
        # The last answers lost, and with them the verdicts of the first.
        kept = (folder / "rows.jsonl").read_text().splitlines(keepends=True)[:4]
        (folder / "rows.jsonl").write_text("".join(kept))
        again = hermes("eval", *rvs, *judge, f"output={folder}", "--json")
        assert again.records[0]["overall"]["right"] == first.records[0]["overall"]["right"]
        assert len(server.requests) == requests
    told = [(made.answer, made.correct, made.score, made.judge) for made in rows_of(folder)]
    assert told == [(made.answer, made.correct, made.score, made.judge) for made in whole]


@pytest.mark.model
@pytest.mark.slow
def test_two_processes_judge_once(rvs, tmp_path):
    with ChatServer() as server:
        judge = ["judge=openai", "judge.model=m", f"judge.base_url={server.url}", "trainer.devices=2"]
        command = [
            sys.executable,
            "-m",
            "hermes",
            "eval",
            "--json",
            *rvs,
            *judge,
            f"output={tmp_path / 'run'}",
        ]
        done = process(*command, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdicts"]["waiting"] == 0
    asked_for = Counter(json.dumps(request["messages"]) for request in server.requests)
    assert set(asked_for.values()) == {1}
    rows = Journal(tmp_path / "run").rows.values()
    assert len({(made.question, made.answer) for made in rows}) == len(asked_for)


def test_a_judge_is_no_part_of_what_makes_the_answers():
    with_judge = eval_config(["judge=words", "data.streams=3"])
    without = eval_config(["data.streams=3"])
    assert settings_hash(with_judge) == settings_hash(without)
    assert "judge" not in answer_settings(with_judge)


@pytest.mark.model
def test_a_sweep_judges_cells_that_are_done(rvs, tmp_path, monkeypatch):
    def launch(cells, folder):
        for cell in cells:
            yield Outcome(cell, *run_cell(cell.overrides, folder / "cells" / cell.hash))

    plain = cells_of([*rvs, "policy=fifo,recent"])
    outcomes = list(run_cells(plain, tmp_path, launch))
    assert [outcome.record["verdicts"]["waiting"] for outcome in outcomes if outcome.record] == [6, 6]
    judged = cells_of([*rvs, "policy=fifo,recent", "judge=words"])
    assert [cell.hash for cell in judged] == [cell.hash for cell in plain]
    # No model is loaded for it.
    monkeypatch.setattr("hermes.evaluation.sweeps.running.evaluate", None)
    outcomes = list(run_cells(judged, tmp_path, launch))
    assert [outcome.record["overall"]["n"] for outcome in outcomes if outcome.record] == [6, 6]
    assert not list(run_cells(judged, tmp_path, lambda *_: iter(["launched"])))[2:]
    # Judged by hand, by another judge: the sweep's next table knows.
    judge_run(tmp_path / "cells" / plain[0].hash, WordsJudge(threshold=1e-6))
    by_hand = next(iter(run_cells(plain, tmp_path, launch))).record
    assert by_hand["verdicts"]["waiting"] == 0
    # Rows of another judge are no longer those of the first one's record.
    assert record_of(judged[0], tmp_path) is None


def test_two_judged_runs_compare_by_verdict_and_tell_their_judges(tmp_path):
    a, b = write_run(tmp_path / "a", answers(20)), write_run(tmp_path / "b", answers(20))
    judge_run(a, WordsJudge(threshold=0.9))
    judge_run(b, WordsJudge(threshold=0.1))
    found = compare_runs(a, b)
    right = [sum(bool(made.correct) for made in rows_of(folder)) for folder in (a, b)]
    assert [found.overall.right_a, found.overall.right_b] == right
    assert found.settings["judge.threshold"] == (0.9, 0.1)
    assert "The two have different judges" in hermes("compare", str(a), str(b)).out
    with pytest.raises(InputError, match="open-ended ones need a judge"):
        compare_runs(a, write_run(tmp_path / "c", answers(20)[:-2]))


def test_rows_of_before_there_were_judges_are_read(tmp_path):
    folder = write_run(tmp_path / "run", [row(0, 0, True)])
    line = lines(folder / "rows.jsonl")[0]
    old = {name: value for name, value in line.items() if name not in ("open_ended", "score", "judge")}
    (folder / "rows.jsonl").write_text(json.dumps(old) + "\n")
    assert rows_of(folder) == [row(0, 0, True)]
    nothing = hermes("judge", str(folder), "judge=words")
    assert nothing.code == 2
    assert "no open-ended answer" in nothing.err
