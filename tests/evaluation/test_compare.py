"""`hermes compare`: what is paired, what is refused, and what is said of a difference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hermes.errors import InputError
from hermes.evaluation import AnswerRow, compare_runs
from hermes.evaluation.scoring.compare import compare_rows, settings_difference
from tests.support.command_line import hermes
from tests.support.runs import row, write_run


def answers(accuracy: float, seed: int, videos: int = 40, **given) -> list[AnswerRow]:
    rng = np.random.default_rng(seed)
    return [
        row(
            clip,
            number,
            bool(rng.random() < accuracy),
            category=("real-time", "backward")[number % 2],
            **given,
        )
        for clip in range(videos)
        for number in range(5)
    ]


def test_a_difference_that_is_there(tmp_path):
    a = write_run(tmp_path / "a", answers(0.5, 0), policy="fifo")
    b = write_run(tmp_path / "b", answers(0.8, 1))
    found = compare_runs(a, b)
    overall = found.overall
    assert (overall.n, overall.videos) == (200, 40)
    assert (found.unpaired_a, found.unpaired_b, found.unscored) == (0, 0, 0)
    assert overall.difference == pytest.approx((overall.only_b - overall.only_a) / 200)
    low, high, doubtful = overall.interval
    assert 0 < low < overall.difference < high < 1
    assert not doubtful
    # Two ways to the same interval.
    assert overall.bootstrap == pytest.approx((low, high), abs=0.02)
    assert overall.p < 0.001
    by = [f"{100 * x:.1f}" for x in (overall.difference, low, high)]
    told = f"B is better by {by[0]} points ({by[1]} to {by[2]}), on 200 questions in 40 videos."
    assert overall.sentence == told
    back = compare_runs(b, a).overall
    assert back.sentence == f"A{told[1:]}"
    assert back.interval[:2] == pytest.approx((-high, -low))
    assert set(found.by_category) == {"real-time", "backward"}
    assert sum(part.n for part in found.by_category.values()) == 200
    assert found.settings == {"policy.name": ("fifo", "hermes")}


def test_a_difference_that_cannot_be_told():
    found = compare_rows(answers(0.6, 0), answers(0.6, 3)).overall
    assert found.interval.low < 0 < found.interval.high
    assert found.detectable > 0.05
    assert found.sentence == (
        "No difference can be told: with 200 questions in 40 videos, only one of "
        f"{100 * found.detectable:.1f} points or more would be found reliably."
    )


def test_the_same_answers_are_not_told_equal():
    found = compare_rows(answers(0.6, 0), answers(0.6, 0)).overall
    assert found.difference == 0
    assert found.p == 1
    assert found.interval.low < 0 < found.interval.high


def test_questions_of_one_video_count_as_alike():
    # The same answers, spread over as many videos as questions, or over four.
    alone = [row(clip, 0, right) for clip, right in enumerate([False] * 20 + [True] * 20)]
    better = [row(clip, 0, True) for clip in range(40)]
    few = [row(clip // 10, clip % 10, r.correct) for clip, r in enumerate(alone)]
    few_better = [row(clip // 10, clip % 10, True) for clip in range(40)]
    one, other = compare_rows(alone, better).overall, compare_rows(few, few_better).overall
    assert one.difference == other.difference == 0.5
    assert one.p == other.p
    assert one.interval.low > 0 > other.interval.low
    assert other.interval.doubtful
    assert other.sentence == "No difference can be told: 40 questions in 4 videos are too few for any."


def test_few_videos_are_warned_of():
    # B has one question more in two videos of twelve, and one less in another.
    a = [row(clip, n, n > 0 or clip == 0) for clip in range(12) for n in range(4)]
    b = [row(clip, n, n > 0 or clip in (1, 2)) for clip in range(12) for n in range(4)]
    found = compare_rows(a, b).overall
    assert found.interval.doubtful
    assert found.sentence.endswith("the interval may be too narrow.")


def test_one_video_says_nothing():
    a, b = [row(0, n, False) for n in range(9)], [row(0, n, True) for n in range(9)]
    found = compare_rows(a, b).overall
    assert found.sentence == "No difference can be told: 9 questions in 1 video are too few for any."
    assert found.record()["detectable"] is None


def test_what_is_left_out_is_counted():
    a, b = answers(0.6, 0), answers(0.7, 1)
    a[7] = row(1, 2, None, category="real-time")
    found = compare_rows(a[:150], b[50:])
    assert (found.unpaired_a, found.unpaired_b, found.unscored) == (50, 50, 0)
    found = compare_rows(a, b[:-3])
    assert (found.unpaired_a, found.unpaired_b, found.unscored) == (3, 0, 1)
    assert found.overall.n == 196


def test_pairs_are_found_by_the_question():
    a = [row(0, 0, True, time_s=10.0), row(0, 1, True, time_s=40.0), row(0, 2, True, question="Where?")]
    # Asked at the last frame of another frame rate; asked elsewhere; another question.
    b = [row(0, 0, True, time_s=10.5), row(0, 1, True, time_s=60.0), row(0, 2, True, question="When?")]
    found = compare_rows(a, b)
    assert (found.overall.n, found.unpaired_a, found.unpaired_b) == (1, 2, 2)


def test_the_same_asked_twice_of_one_path_is_two_pairs():
    a = [row(clip, 0, clip == 0, video="x.mp4") for clip in range(2)]
    b = [row(clip, 0, True, video="x.mp4") for clip in range(2)]
    found = compare_rows(a, b).overall
    assert (found.n, found.videos, found.only_b) == (2, 1, 1)


def test_folders_of_videos_may_differ():
    here = [row(clip, 0, True, video=f"/here/set/{clip}/film.mp4") for clip in range(3)]
    there = [row(clip, 0, False, video=f"/other/{clip}/film.mp4") for clip in range(3)]
    found = compare_rows(here, there).overall
    assert (found.n, found.videos, found.only_a) == (3, 3, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"question": "Another?"}, r"no question in common: A asks 'What shape was it 0\?' at 10 s of"),
        ({"expected": "disc"}, "not of the same benchmark: to .* expects 'square', the second 'disc'"),
        ({"choices": ("square", "disc")}, "the second 'square' of square, disc"),
        ({"correct": None}, "no answer is scored"),
    ],
)
def test_runs_that_are_not_of_the_same_questions(given, said):
    given = {"correct": True, **given}
    with pytest.raises(InputError, match=said):
        compare_rows([row(0, 0, True)], [row(0, 0, **given)])


def test_settings_that_differ_are_named():
    a = {
        "settings": "policy: {tiers: {long: {share: 0.3}}}\nkinds: [a]\noutput: x",
        "versions": {"torch": "2"},
    }
    b = {"settings": "policy: {tiers: {}, budget: 8}\nkinds: [a, b]\noutput: y", "config_hash": "1"}
    assert settings_difference(a, b) == {
        "policy.tiers.long.share": (0.3, None),
        "kinds": (["a"], ["a", "b"]),
        "versions.torch": ("2", None),
        "policy.tiers": (None, {}),
        "policy.budget": (None, 8),
    }


def test_the_command(tmp_path: Path):
    a = write_run(tmp_path / "a", answers(0.5, 0), policy="fifo")
    b = write_run(tmp_path / "b", answers(0.8, 1)[:-1])
    page = hermes("compare", str(a), str(b))
    assert page.code == 0, page.err
    for said in (
        "B is better by",
        "199 questions in 40 videos",
        "1 questions of A are not in",
        "policy.name",
    ):
        assert said in page.out
    (record,) = hermes("compare", str(a), str(b), "--json").records
    assert record["a"] == str(a)
    assert record["overall"]["sentence"] in page.out
    assert record["settings"] == {"policy.name": ["fifo", "hermes"]}
    assert record["unpaired_a"] == 1
    # What another process is writing is left alone.
    with (b / "rows.jsonl").open("a") as file:
        file.write('{"clip": 9')
    assert hermes("compare", str(a), str(b), "--json").records == [record]
    assert (b / "rows.jsonl").read_text().endswith('{"clip": 9')


def test_settings_of_another_part_are_counted(tmp_path: Path):
    settings = "policy: {name: fifo, budget: 8, align: token}\nprobe: null\nvideo: {fps: 1}"
    other = "policy: {name: full}\nprobe: mass\nvideo: {fps: 2}"
    a = write_run(tmp_path / "a", answers(0.5, 0), settings=settings)
    b = write_run(tmp_path / "b", answers(0.5, 0), settings=other)
    page = hermes("compare", str(a), str(b)).out
    shown = page[page.index("what differs") :]
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["policy.name", "probe", "video.fps"]
    assert "and 2 settings of parts that only one of them has" in shown


def test_folders_without_a_run(tmp_path: Path):
    run = write_run(tmp_path / "a", answers(0.5, 0))
    missing = hermes("compare", str(run), str(tmp_path / "b"))
    assert missing.code == 2
    assert "not the folder of a run of 'hermes eval'" in missing.err
    empty = write_run(tmp_path / "c", [])
    (empty / "rows.jsonl").touch()
    assert "without any answer yet" in hermes("compare", str(run), str(empty)).err
    (empty / "manifest.json").write_text("{")
    assert "not JSON" in hermes("compare", str(run), str(empty)).err
    (run / "rows.jsonl").write_text(json.dumps({"clip": 0}) + "\n")
    assert "line 1: not a row" in hermes("compare", str(run), str(run)).err
