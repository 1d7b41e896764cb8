"""A run judged: what is kept, what is asked again, and what trouble costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from hermes.errors import InputError
from hermes.evaluation import Journal, judge_run, summarise
from hermes.evaluation.judging.judges import OpenAIJudge, WordsJudge
from hermes.evaluation.judging.verdict_file import VerdictFile
from hermes.evaluation.reports.run_page import write_report
from tests.support.chat_server import ChatServer, asked, fair, words
from tests.support.command_line import hermes
from tests.support.runs import answers, lines, open_row, rows_of, write_run

pytest.importorskip("openai")


def test_verdicts_reach_rows_summary_report_and_manifest(tmp_path):
    folder = write_run(tmp_path / "run", answers())
    with ChatServer() as server:
        judge = asked(server)
        seen: list[tuple[int, int]] = []
        found = judge_run(folder, judge, watcher=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 12) for n in range(1, 13)]
    for made in rows_of(folder):
        judged = made.number < 4
        right = (made.clip + made.number) % 2 == 0 if judged else made.correct
        assert (made.correct, made.score) == (right, (4.0 if right else 1.0) if judged else None)
        assert made.judge == (judge.identity if judged else None)
    assert (found.overall.right, found.overall.n, found.unscored) == (7, 13, 1)
    assert (found.verdicts.n, found.verdicts.waiting, found.verdicts.unreadable) == (12, 0, 0)
    assert {name: (s.mean, s.n) for name, s in found.verdicts.scores.items()} == {
        "all": (2.5, 12),
        "place": (3.0, 6),
        "person": (2.0, 6),
    }
    page = write_report(folder).read_text()
    assert "| all | 12 | 2.50 |" in page
    assert "given to open-ended answers by `openai m`" in page
    about = json.loads((folder / "manifest.json").read_text())["judge"]
    assert (about["model"], about["temperature"], about["identity"]) == ("m", 0.0, judge.identity)
    assert len(about["prompt_sha256"]) == 64
    for request in server.requests:
        assert (request["model"], request["temperature"], request["seed"]) == ("m", 0.0, 0)
    # What was sent and what came back are there word for word.
    kept = {line["key"]: line for line in lines(folder / "judged.jsonl")}
    assert sorted(json.dumps(line["messages"]) for line in kept.values()) == sorted(
        json.dumps(request["messages"]) for request in server.requests
    )
    assert all(line["replies"] == [fair(line["messages"])[1]] for line in kept.values())


def test_a_second_time_asks_nothing_and_again_asks_all(tmp_path):
    folder = write_run(tmp_path / "run", answers())
    with ChatServer() as server:
        first = judge_run(folder, asked(server))
        before = (folder / "rows.jsonl").read_bytes()
        # The endpoint's address and patience make no other judge.
        moved = asked(server, timeout=3.0, parallel=1, retries=0)
        assert judge_run(folder, moved) == first
        assert len(server.requests) == 12
        (folder / "judged.jsonl").unlink()
        assert judge_run(folder, moved) == first
        assert len(server.requests) == 12
        assert (folder / "rows.jsonl").read_bytes() == before
        judge_run(folder, asked(server), again=True)
        assert len(server.requests) == 24


def test_another_judge_takes_the_place_and_the_first_comes_back_without_a_request(tmp_path):
    folder = write_run(tmp_path / "run", answers())
    with ChatServer() as server:
        first = judge_run(folder, asked(server))
        rows = rows_of(folder)
        second = judge_run(folder, WordsJudge(threshold=0.9))
        assert second.overall.right == 1
        assert {made.judge for made in rows_of(folder) if made.needs_judge} == {
            WordsJudge(threshold=0.9).identity
        }
        assert json.loads((folder / "manifest.json").read_text())["judge"]["name"] == "words"
        assert judge_run(folder, asked(server)) == first
        assert rows_of(folder) == rows
        assert len(server.requests) == 12
    # One that cannot be reached takes nobody's place.
    with pytest.raises(InputError, match="0 of 12 answers are judged"):
        judge_run(folder, OpenAIJudge("other", base_url=server.url, retries=0))
    assert rows_of(folder) == rows


def test_a_shared_cache_serves_other_runs_and_survives_a_torn_line(tmp_path, caplog):
    cache = tmp_path / "deep" / "cache.jsonl"
    one, two, three = (write_run(tmp_path / name, answers()) for name in ("one", "two", "three"))
    with ChatServer() as server:
        first = judge_run(one, asked(server, cache=cache))
        assert judge_run(two, asked(server, cache=cache)) == first
        assert len(server.requests) == 12
        # The run's own file is whole.
        assert len(lines(two / "judged.jsonl")) == 12
        cache.write_text(cache.read_text()[:-20])
        assert judge_run(three, asked(server, cache=cache)) == first
        assert len(server.requests) == 13
        assert "1 lines are no verdicts" in caplog.text
        assert len(VerdictFile(cache).verdicts) == 12


def test_answers_that_read_the_same_are_judged_once(tmp_path):
    folder = write_run(tmp_path / "run", [open_row(clip, 0, "kitchen") for clip in range(5)])
    seen = []
    with ChatServer() as server:
        found = judge_run(folder, asked(server), watcher=lambda *counts: seen.append(counts))
        assert found.overall.right == 5
        assert len(server.requests) == 1
    assert seen == [(5, 5)]


def test_so_many_at_a_time_and_no_more(tmp_path):
    folder = write_run(tmp_path / "run", answers())
    together = threading.Barrier(3, timeout=20)

    def say(messages, number):
        # The first comes alone; of the others each waits until three are there.
        if 1 <= number <= 9:
            together.wait()
        return fair(messages)

    with ChatServer(say) as server:
        judge_run(folder, asked(server, parallel=3, retries=0))
    assert server.most_at_once == 3


def test_what_cannot_be_read_is_asked_for_again_and_then_counted(tmp_path):
    folder = write_run(tmp_path / "run", answers())

    def say(messages, number):
        expected, _ = words(messages)
        bad = expected == "Kitchen 2." or (expected == "Kitchen 1." and len(messages) == 1)
        return (200, "I think it is fine.") if bad else fair(messages)

    with ChatServer(say) as server:
        found = judge_run(folder, asked(server))
        assert (found.verdicts.n, found.verdicts.unreadable, found.overall.n) == (12, 3, 10)
        assert all(
            made.correct is None and made.score is None for made in rows_of(folder) if made.number == 2
        )
        # Six good at once, three after a second request, three never.
        assert len(server.requests) == 6 + 6 + 6
        second = [request["messages"] for request in server.requests if len(request["messages"]) == 3]
        assert all(messages[1]["content"] == "I think it is fine." for messages in second)
        assert (
            "3 of 12 open-ended answers are not scored, because no reply" in write_report(folder).read_text()
        )
        kept = Counter(len(line["replies"]) for line in lines(folder / "judged.jsonl"))
        assert kept == {1: 6, 2: 6}
        server.say = fair
        # They are what is missing.
        assert judge_run(folder, asked(server)).verdicts.unreadable == 0
        assert len(server.requests) == 18 + 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_moment_of_trouble_is_waited_out(tmp_path, status):
    folder = write_run(tmp_path / "run", answers(1))
    with ChatServer(lambda messages, n: (status, "wait") if n < 2 else fair(messages)) as server:
        assert judge_run(folder, asked(server)).verdicts.waiting == 0
        assert len(server.requests) == 4 + 2


@pytest.mark.parametrize(
    ("status", "requests", "message"),
    [
        (401, 1, "status 401: no. 0 of .*; the same command"),
        (404, 1, "status 404"),
        (429, 3, r"status 429: no \(3 attempts\)"),
        (500, 3, "status 500"),
        (400, 3, "status 400"),
    ],
)
def test_an_endpoint_that_fails_says_so_at_once(tmp_path, status, requests, message):
    folder = write_run(tmp_path / "run", answers())
    before = (folder / "rows.jsonl").read_bytes()
    with ChatServer(lambda *_: (status, "no")) as server, pytest.raises(InputError, match=message) as error:
        judge_run(folder, asked(server))
    # Not a request more than it takes to know.
    assert len(server.requests) == requests
    assert f"judge m at {server.url}" in str(error.value)
    assert (folder / "rows.jsonl").read_bytes() == before


def test_what_was_judged_before_a_failure_is_kept(tmp_path):
    folder = write_run(tmp_path / "run", answers())
    with ChatServer(lambda messages, n: fair(messages) if n < 5 else (500, "down")) as server:
        with pytest.raises(InputError, match="5 of 12 answers are judged"):
            judge_run(folder, asked(server, parallel=1, retries=0))
        found = summarise(rows_of(folder))
        assert (found.verdicts.waiting, found.overall.n) == (7, 6)
        assert found.verdicts.notes()[0].startswith("7 of 12 open-ended answers are not judged yet")
        server.say = fair
        assert judge_run(folder, asked(server, parallel=1)).verdicts.waiting == 0
        assert len(server.requests) == 6 + 7


def test_again_that_fails_leaves_what_there_was(tmp_path):
    folder = write_run(tmp_path / "run", answers())
    with ChatServer() as server:
        judge_run(folder, asked(server))
        before = rows_of(folder)
        server.say = lambda messages, n: (200, '{"correct": "no", "score": 0}') if n < 15 else (500, "down")
        with pytest.raises(InputError, match="3 of 12 answers are judged"):
            judge_run(folder, asked(server, parallel=1, retries=0), again=True)
    after = rows_of(folder)
    assert [made.score for made in after if made.needs_judge][:3] == [0.0, 0.0, 0.0]
    assert after[3:] == before[3:]


def test_one_question_that_is_refused_stops_nothing(tmp_path):
    folder = write_run(tmp_path / "run", answers())

    def say(messages, _):
        return (400, "content filter") if words(messages)[1] == "kitchen 0 0" else fair(messages)

    with ChatServer(say) as server:
        for requests in (12, 13):
            found = judge_run(folder, asked(server))
            assert (found.verdicts.unreadable, found.verdicts.waiting) == (1, 0)
            assert len(server.requests) == requests
    refused = [line for line in lines(folder / "judged.jsonl") if line["correct"] is None]
    assert "content filter" in refused[0]["replies"][0]


def test_a_slow_endpoint_is_given_up(tmp_path):
    folder = write_run(tmp_path / "run", answers(1))
    done = threading.Event()

    def say(messages, _):
        done.wait(60)
        return fair(messages)

    with ChatServer(say) as server:
        with pytest.raises(InputError, match=r"no reply within 0\.2 s"):
            judge_run(folder, asked(server, timeout=0.2, retries=0))
        done.set()


def test_nobody_there_and_something_else_there(tmp_path):
    folder = write_run(tmp_path / "run", answers(1))
    with ChatServer() as server:
        pass
    with pytest.raises(InputError, match=r"cannot be reached: .*refused"):
        judge_run(folder, asked(server, retries=0))

    class Other(ChatServer):
        def _serve(self, handler):
            handler.send_response(200)
            handler.send_header("Content-Length", "4")
            handler.end_headers()
            handler.wfile.write(b"true")

    with Other() as other, pytest.raises(InputError, match="not with a chat completion"):
        judge_run(folder, asked(other, retries=0))


def test_ctrl_c_leaves_what_was_judged(tmp_path):
    folder = write_run(tmp_path / "run", answers())

    never = threading.Event()

    def say(messages, number):
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
            # The reply that is under way is not waited for.
            never.wait(60)
        return fair(messages)

    with ChatServer(say) as server:
        started = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                judge_run(folder, asked(server, parallel=1))
        finally:
            never.set()
        assert time.monotonic() - started < 30
        assert len(lines(folder / "judged.jsonl")) == 5
        assert sum(made.judge is not None for made in rows_of(folder)) == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_a_finalizer_swallows_is_noticed(tmp_path):
    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            # Python raises it here, where it is printed and forgotten.
            for _ in range(100):
                pass

    folder, before = write_run(tmp_path / "run", answers()), signal.getsignal(signal.SIGINT)
    with ChatServer(lambda messages, number: fair(messages)) as server:
        seen = []

        def watcher(done, total):
            seen.append(done)
            if len(seen) == 3:
                Finalized()

        with pytest.raises(KeyboardInterrupt):
            judge_run(folder, asked(server, parallel=1), watcher=watcher)
    assert len(lines(folder / "judged.jsonl")) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_that_two_processes_left_half_done_is_judged_where_it_lies(tmp_path):
    rows = answers()
    folder = write_run(tmp_path / "run", rows[::2])
    for made in rows[1::2]:
        Journal(folder, 1).add(made)
    with (folder / "rows.1.jsonl").open("a") as file:
        file.write('{"clip": 7')
    judge_run(folder, WordsJudge())
    assert len(rows_of(folder)) == len(rows)
    assert all(made.correct is not None for made in rows_of(folder) if made.needs_judge)
    assert [len(lines(folder / name)) for name in ("rows.jsonl", "rows.1.jsonl")] == [7, 7]


def test_nothing_is_asked_while_a_verdict_is_not_written(tmp_path):
    folder = write_run(tmp_path / "run", answers())
    with ChatServer() as server:
        judge = asked(server, parallel=1)

        def watch(done: int, total: int) -> None:
            # The time a next request would have to be begun in.
            time.sleep(0.02)
            assert len(server.requests) == done == len(lines(folder / "judged.jsonl"))

        judge_run(folder, judge, watcher=watch)
        assert len(server.requests) == 12


def test_a_kill_costs_the_request_under_way_alone(tmp_path):
    whole = write_run(tmp_path / "whole", answers())
    folder = write_run(tmp_path / "broken", answers())
    reached, never = threading.Event(), threading.Event()

    def say(messages, number):
        if number == 7 and not reached.is_set():
            reached.set()
            never.wait(60)
        return fair(messages)

    with ChatServer(say) as server:
        settings = ["judge=openai", "judge.model=m", f"judge.base_url={server.url}", "judge.parallel=1"]
        command = [sys.executable, "-m", "hermes", "judge", str(folder), *settings]
        killed = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert reached.wait(60)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        never.set()
        assert len(lines(folder / "judged.jsonl")) == 7
        # As if it had been cut within a line.
        with (folder / "judged.jsonl").open("a") as file:
            file.write('{"key": "ab')
        done = hermes("judge", str(folder), *settings, "--json")
        assert done.code == 0, done.err
        assert len(server.requests) == 8 + 5
        judge_run(whole, asked(server))
    assert done.records[0]["verdicts"]["waiting"] == 0
    assert rows_of(folder) == rows_of(whole)
