"""The judges themselves: settings, keys, prompts, replies, and means of scores."""

from __future__ import annotations

import numpy as np
import pytest

from hermes.config import build
from hermes.errors import SettingError
from hermes.evaluation import Judge, eval_config, evaluate, judge_run, summarise
from hermes.evaluation.judging.judges import WordsJudge, read_verdict, shared_words
from hermes.evaluation.reports.run_page import write_report
from hermes.evaluation.scoring.statistics import clustered_mean
from tests.support.chat_server import ChatServer, asked, fair
from tests.support.command_line import hermes
from tests.support.runs import answers, rows_of, write_run

pytest.importorskip("openai")
stats = pytest.importorskip("scipy.stats")

SECRET = "sk-never-to-be-written-4711"


def test_no_key_is_in_any_file_or_message(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    folder = write_run(tmp_path / "run", answers(1))

    def say(messages, number):
        return fair(messages) if number < 4 else (401, f"Incorrect API key provided: {SECRET}")

    with ChatServer(say) as server:
        settings = [
            "judge=openai",
            "judge.model=m",
            f"judge.base_url={server.url}",
            "judge.api_key_env=MY_KEY",
        ]
        assert hermes("judge", str(folder), *settings).code == 0
        write_report(folder)
        failed = hermes("judge", str(folder), *settings, "--again")
    assert failed.code == 2
    assert "401" in failed.err
    assert set(server.keys) == {f"Bearer {SECRET}"}
    assert SECRET not in failed.err + failed.out
    for path in folder.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_a_key_goes_only_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    folder = write_run(tmp_path / "run", answers(1))
    with ChatServer() as server:
        judge_run(folder, asked(server))
    assert set(server.keys) == {"Bearer none"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"judge\.model: got None; .*required"),
        ({"model": "m", "api_key_env": SECRET}, r"judge\.api_key_env: got '\.\.\.'; allowed: the name of"),
        ({"model": "m", "base_url": f"http://me:{SECRET}@host/v1"}, "without user, password"),
        ({"model": "m", "prompt": "Grade {answer}"}, "Missing: expected"),
        ({"model": "m", "temprature": 1}, "Did you mean 'temperature'"),
    ],
)
def test_wrong_settings_say_so_and_repeat_no_secret(given, message):
    with pytest.raises(SettingError, match=message) as error:
        build(Judge, {"name": "openai", **given}, "judge")
    assert SECRET not in str(error.value)


def test_without_a_key_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = eval_config(["judge=openai", "judge.model=m", "data.streams=1"])
    with pytest.raises(SettingError, match=r"judge\.api_key_env: got 'OPENAI_API_KEY'"):
        evaluate(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_prompt_is_filled_in_one_pass():
    with ChatServer(lambda *_: (200, '{"correct": "no"}')) as server:
        judge = asked(server, prompt="{expected}|{answer}|{x}", options={"max_tokens": 9}, temperature=None)
        verdict = judge.verdict("why", "{answer}", "{expected} {question}")
    assert server.requests[0]["messages"][0]["content"] == "{answer}|{expected} {question}|{x}"
    assert server.requests[0]["max_tokens"] == 9
    assert "temperature" not in server.requests[0]
    assert (verdict.correct, verdict.score) == (False, None)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ('{"correct": "yes", "score": 5}', (True, 5.0)),
        ("```json\n{\n 'Correct': 'No', 'score': '2'}\n```", (False, 2.0)),
        ('{"pred": true, "score": 3.5}', (True, 3.5)),
        ('<think>{"correct": "yes", "score": 5}?</think> {"correct": "no", "score": 0}', (False, 0.0)),
        ('First {"correct": "no", "score": 1}, but no: {"correct": "yes", "score": 4}', (True, 4.0)),
        ('{"correct": "yes", "score": 4} {"note": 1}', (True, 4.0)),
        ('{"correct": "yes"}', (True, None)),
        ('{"correct": "maybe", "score": 3}', None),
        ('{"correct": "yes", "score": 6}', None),
        ('{"correct": "yes", "score": "high"}', None),
        ('{"correct": "yes", "score": NaN}', None),
        ("yes, 5", None),
        ("", None),
        ("{" * 5000, None),
    ],
)
def test_replies_are_read_as_they_come(reply, verdict):
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("expected", "answer", "f1"),
    [
        ("A red car.", "the RED car", 1.0),
        ("red", "blue", 0.0),
        ("two red red cars", "red red red", 2 * 2 / (4 + 3)),
        ("The.", "the.", 1.0),
        ("The.", "", 0.0),
    ],
)
def test_shared_words(expected, answer, f1):
    assert shared_words(expected, answer) == pytest.approx(f1)
    verdict = WordsJudge().verdict("?", expected, answer)
    assert (verdict.correct, verdict.score) == (f1 >= 0.5, pytest.approx(5 * f1))


def test_a_judge_of_ones_own_and_its_fault(tmp_path):
    class Strict(WordsJudge):
        def verdict(self, question, expected, answer):
            if answer.endswith("2 3"):
                raise ZeroDivisionError("a fault")
            return super().verdict(question, expected, answer)

    folder = write_run(tmp_path / "run", answers())
    with pytest.raises(ZeroDivisionError, match="a fault"):
        judge_run(folder, Strict(parallel=1))
    assert summarise(rows_of(folder)).verdicts.waiting == 1


@pytest.mark.parametrize("shape", [(12, 1), (9, 4)])
def test_intervals_of_means_are_students_over_videos(shape):
    values = np.random.default_rng(3).integers(0, 6, size=shape).astype(float)
    low, high, _ = clustered_mean(values.sum(1), np.full(shape[0], shape[1]), (0.0, 5.0))
    means = values.mean(1)
    wanted = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    assert (low, high) == pytest.approx(wanted, abs=1e-3)


def test_intervals_of_means_stay_within_bounds_and_never_vanish():
    low, high, doubtful = clustered_mean(np.full(20, 10.0), np.full(20, 2), (0.0, 5.0))
    assert (3.5 < low < 4.5, high, doubtful) == (True, 5.0, False)
    assert clustered_mean(np.array([3.0]), np.array([1]), (0.0, 5.0)) == (0.0, 5.0, True)


def test_scores_at_the_end_of_the_scale_are_covered():
    """Intra-video correlation 0.3, most scores 4 or 5."""
    rng = np.random.default_rng(0)

    def draw(videos: int) -> np.ndarray:
        alike, own = rng.standard_normal((videos, 1)), rng.standard_normal((videos, 5))
        return np.clip(np.round(4.9 + 2 * (0.3**0.5 * alike + 0.7**0.5 * own)), 0, 5)

    truth = draw(200_000).mean()
    found = [clustered_mean(draw(60).sum(1), np.full(60, 5), (0.0, 5.0)) for _ in range(600)]
    assert 0.92 < np.mean([low <= truth <= high for low, high, _ in found]) < 0.975
