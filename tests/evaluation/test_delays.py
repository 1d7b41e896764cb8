"""Questions asked again, means over tasks and categories, and costs."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest

from hermes.backbone import load_backbone
from hermes.data.annotated import Annotated
from hermes.data.clips import Clip, TimedQuestion
from hermes.data.wanderer import Wanderer
from hermes.data.wanderer.questions import KINDS, History
from hermes.data.wanderer.truth import answer_at, holds_until
from hermes.data.wanderer.world import WorldConfig
from hermes.errors import SettingError
from hermes.evaluation import Journal, eval_config, evaluate, summarise
from hermes.evaluation.reports.run_page import write_report
from hermes.evaluation.running.asking import askings
from hermes.evaluation.scoring.compare import compare_rows
from hermes.evaluation.scoring.measures import averages, costs
from tests.support.runs import row


def test_asked_again_while_the_answer_holds_and_the_clip_goes_on():
    questions = tuple(TimedQuestion(f"q{i}", "a", (), time) for i, time in enumerate((1.0, 4.0, None)))
    clip = Clip("v.mp4", questions, duration=10.0)
    found = askings(clip, [math.inf, 6.0, math.inf], [2.0, 6.0, 20.0])
    assert [(a.question.time, a.number, a.delay) for a in found] == [
        *((1.0, 0, 0.0), (3.0, 0, 2.0), (4.0, 1, 0.0), (7.0, 0, 6.0), (None, 2, 0.0))
    ]
    assert len(askings(clip, [None] * 3, [2.0])) == 3
    assert max(a.delay for a in askings(Clip("v.mp4", questions), [math.inf] * 3, [20.0])) == 20.0


def test_an_answer_holds_to_the_fraction_of_a_second():
    world = Wanderer(streams=10, questions=30, late=0.1)
    for index in range(10):
        walk, clip = world[index], world.clip(index)
        held = [world.holds(index, question) for question in clip.questions]
        found = {(a.number, a.delay) for a in askings(clip, held, [0.5, 1.0, 2.5]) if a.delay}
        for number, question in enumerate(walk.questions):
            for delay in (0.5, 1.0, 2.5):
                # The frame of second k is seen by a question after k.
                seen = math.ceil(question.time + delay)
                moments = range(question.time + 1, min(seen, walk.stream.length) + 1)
                same = all(
                    answer_at(question.kind, question.text, History(walk.stream, t)) == question.answer
                    for t in moments
                )
                assert ((number, delay) in found) == (same and seen <= walk.stream.length)


def test_valid_until_counts_from_the_start_of_a_cut_video(tmp_path):
    (tmp_path / "v.mp4").touch()
    asked = {"question": "q", "answer": "a", "end_time": 110, "valid_until": "0:01:55"}
    clip = {"video_path": "v.mp4", "clip_start_time": 100, "clip_end_time": 160, "conversations": [asked]}
    (tmp_path / "q.json").write_text(json.dumps([clip]))
    for cut, start in ((False, 100), (True, 0)):
        data = Annotated(tmp_path / "q.json", cut=cut)
        (question,) = data.clip(0).questions
        assert data.holds(0, question) == start + 15
        found = askings(data.clip(0), [data.holds(0, question)], [4.0, 6.0])
        assert [a.question.time for a in found] == [start + 10, start + 14]


def test_every_question_of_the_world_is_answered_from_its_words():
    world = Wanderer(streams=40, questions=30, world=WorldConfig(length=64, revisit=0.3))
    kinds = set()
    for walk in (world[i] for i in range(40)):
        for question in walk.questions:
            assert (
                answer_at(question.kind, question.text, History(walk.stream, question.time))
                == question.answer
            )
            until = holds_until(question, walk.stream)
            assert question.time < until <= walk.stream.length + 1
            kinds.add(question.kind)
    assert kinds == set(KINDS)


def test_until_when_an_answer_holds_by_looking_at_the_walk():
    world = Wanderer(streams=30, questions=30, world=WorldConfig(length=64, revisit=0.4))
    for walk in (world[i] for i in range(30)):
        for q in walk.questions:
            until, scenes = holds_until(q, walk.stream), walk.stream.scenes
            now = next(s for s in scenes if s.start < q.time <= s.end)
            if q.kind == "now_place":
                # A visit ends where another place begins.
                assert until == now.end + 1
            elif q.kind in ("now_colour", "now_shape", "now_corner"):
                # The next object may look the same.
                assert until >= now.shown[1] + 1
            elif q.kind in ("first_place", "order") or (q.kind == "visited" and q.answer == "yes"):
                assert until == walk.stream.length + 1
            elif q.kind == "count_places":
                seen = {s.place for s in scenes if s.start < q.time}
                new = [s.start for s in scenes if s.start >= q.time and s.place not in seen]
                assert until == min([*(start + 1 for start in new), walk.stream.length + 1])


def test_a_question_asked_again_counts_by_its_delay_alone():
    rows = []
    for clip in range(12):
        for number in range(4):
            rows.append(row(clip, number, number < 3))
            # One of the three right ones is forgotten.
            rows += [row(clip, number, number < 2, delay_s=8.0, time_s=18.0 + number)]
    found = summarise(rows)
    assert (found.overall.right, found.overall.n) == (36, 48)
    loss = found.by_delay["all"]["8"]
    assert (loss.now.right, loss.before.right, loss.now.n) == (24, 36, 48)
    assert loss.change.low < -0.25 + 0.02 < loss.change.high < 0
    assert set(found.by_delay) == {"backward", "all"}
    assert not summarise([r for r in rows if not r.delay_s]).by_delay
    other = [r if not r.delay_s else row(r.clip, r.number, True, delay_s=8.0, time_s=r.time_s) for r in rows]
    compared = compare_rows(rows, other)
    assert compared.overall.difference == 0
    assert compared.by_delay["8"].difference == pytest.approx(0.5)


@pytest.mark.model
def test_the_window_forgets_what_the_whole_cache_keeps(tmp_path):
    backbone, change = load_backbone("embedded"), {}
    for policy in ("full", "fifo"):
        run = eval_config(
            [
                *(f"policy={policy}", "policy.budget=32", "data.streams=4", "data.world.length=48"),
                *("data.kinds=[past_colour,past_shape,past_corner]", "data.late=0.1", "delays=[8,24]"),
                *("data.questions=10", "generation.max_new_tokens=2"),
            ]
        )
        folder = tmp_path / policy
        found = evaluate(run, folder, backbone=backbone)
        losses = found.by_delay["backward"]
        assert set(losses) == {"8", "24"}
        change[policy] = losses["8"].now.accuracy - losses["8"].before.accuracy
        for asked in Journal(folder).rows.values():
            if asked.delay_s:
                first = Journal(folder).rows[asked.clip, asked.number, 0.0]
                assert asked.time_s == first.time_s + asked.delay_s
                assert asked.expected == first.expected
        # A second look asks nothing again.
        before = (folder / "rows.jsonl").read_text()
        assert evaluate(run, folder, backbone=backbone).by_delay == found.by_delay
        assert (folder / "rows.jsonl").read_text() == before
        page = write_report(folder).read_text()
        assert "## Asked again" in page
        assert (folder / "plots" / "delay.png").stat().st_size > 5_000
    assert change["full"] > -0.15
    assert change["fifo"] < change["full"] - 0.2
    clips = [json.loads(line) for line in (tmp_path / "fifo" / "clips.jsonl").read_text().splitlines()]
    assert [clip["clip"] for clip in clips] == list(range(4))
    assert all(clip["indices"] == [[0, clip["frames"] - 1]] and clip["size"] == [32, 32] for clip in clips)


def test_wrong_delays_are_named():
    for wrong in ("[0]", "[-1]", "[4,4]"):
        with pytest.raises(SettingError, match="delays: got"):
            eval_config([f"delays={wrong}"])


def test_means_over_tasks_and_categories_against_plain_loops():
    rng = np.random.default_rng(0)
    rows = []
    for clip in range(30):
        tasks = [("real-time", "OCR"), ("real-time", "ACR"), ("backward", "EPM")]
        for number, (category, task) in enumerate(tasks * (1 + clip % 3)):
            right = bool(rng.random() < {"OCR": 0.9, "ACR": 0.5, "EPM": 0.3}[task])
            rows.append(row(clip, number, right, category=category, task=task))
    found = averages(rows)

    def task_mean(task):
        mine = [r.correct for r in rows if r.task == task]
        return sum(mine) / len(mine)

    real = (task_mean("OCR") + task_mean("ACR")) / 2
    assert found["tasks"].value == pytest.approx((2 * real + task_mean("EPM")) / 3)
    assert found["tasks of real-time"].value == pytest.approx(real)
    assert found["categories"].value == pytest.approx((real + task_mean("EPM")) / 2)
    for mean in found.values():
        assert mean.low < mean.value < mean.high
    assert not averages([r for r in rows if r.task == "EPM"])
    # As wide as the spread of the mean over fresh samples: 1.96 standard errors either way.
    spread = []
    for seed in range(300):
        fresh = np.random.default_rng(seed)
        each = {task: np.mean(fresh.random(60) < p) for task, p in (("OCR", 0.9), ("ACR", 0.5), ("EPM", 0.3))}
        spread.append(((each["OCR"] + each["ACR"]) / 2 + each["EPM"]) / 2)
    width = found["categories"].high - found["categories"].low
    assert width == pytest.approx(2 * 1.96 * np.std(spread), rel=0.35)


def test_costs_are_those_of_the_rows():
    rows = [row(i, 0, True, ttft_ms=float(i), lag_s=None, tokens_per_layer=(i, 3 * i)) for i in range(101)]
    found = costs(rows)
    assert (found["ttft"].median, found["ttft"].high) == (50.0, 95.0)
    assert found["tokens"].mean == 100.0
    assert "lag" not in found


def test_every_measure_has_a_heading_with_its_unit():
    from hermes.evaluation.scoring.measures import MEASURES

    for name, (heading, read) in MEASURES.items():
        assert "(" in heading or name in ("frames", "tokens", "read")
        assert read(row(0, 0, True)) is None or isinstance(read(row(0, 0, True)), float | int)


def test_names_of_categories_do_not_run_into_tasks():
    pairs = list(product(("a", "b"), ("x", "y")))
    rows = [
        row(i, j, (i + j) % 2 == 0, category=c, task=t) for i in range(4) for j, (c, t) in enumerate(pairs)
    ]
    assert set(averages(rows)) == {"tasks", "tasks of a", "tasks of b", "categories"}
