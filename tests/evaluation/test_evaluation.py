"""Evaluation: rows that resume, intervals, ages of evidence, and the shipped model's answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hermes.backbone import load_backbone
from hermes.data.annotated import Annotated
from hermes.data.annotations import write_annotations
from hermes.data.clips import Clip, TimedQuestion
from hermes.data.wanderer import Wanderer, WorldConfig
from hermes.errors import InputError, SettingError
from hermes.evaluation import EvalConfig, Journal, age_bin, default_folder, eval_config, evaluate, wilson
from hermes.samples import CLIP
from tests.support.command_line import hermes, process

SHORT = (
    "data.streams=3",
    "data.world.length=16",
    "data.choices=0.4",
    "data.questions=6",
    "generation.max_new_tokens=4",
)
TIMES = {"ttft_ms", "tpot_ms", "frame_ms", "lag_s", "memory_bytes"}


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def config(*settings: str) -> EvalConfig:
    return eval_config([*SHORT, "policy=hermes", "policy.budget=24", *settings])


def told(folder: Path) -> list[dict]:
    """The rows of a folder without what differs from run to run."""
    lines = (folder / "rows.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (3, 7), (250, 300), (1, 1)])
@pytest.mark.parametrize("z", [1.959964, 2.575829])
def test_wilson_holds_the_shares_whose_test_would_not_reject(right, n, z):
    level = {1.959964: 0.95, 2.575829: 0.99}[z]
    for end in wilson(right, n, level):
        # At its ends the score test is exactly at its limit.
        assert abs(right / n - end) == pytest.approx(z * (end * (1 - end) / n) ** 0.5, abs=1e-6)
    low, high = wilson(right, n, level)
    assert 0 <= low <= right / n <= high <= 1


def test_nothing_asked_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("age", "name"), [(0, "0-1"), (0.9, "0-1"), (1, "1-2"), (7.9, "4-8"), (64, "64-128")]
)
def test_ages_double(age, name):
    assert age_bin(age) == name


@pytest.mark.model
def test_every_question_is_asked_at_its_time(embedded, tmp_path):
    run = config()
    summary = evaluate(run, tmp_path, backbone=embedded)
    rows = list(Journal(tmp_path).rows.values())
    wanted = [(i, n) for i in range(3) for n in range(len(run.data.clip(i).questions))]
    assert [(row.clip, row.number) for row in rows] == wanted
    assert summary.overall.n == len(rows) == sum(score.n for score in summary.by_kind.values())
    for row in rows:
        question = run.data.clip(row.clip).questions[row.number]
        assert (row.question, row.expected, row.time_s) == (question.question, question.answer, question.time)
        # One frame a second, and none from after the question.
        assert row.frames_seen == row.time_s
        assert max(row.tokens_per_layer) <= 24 + 9
        assert row.chance == (1 / len(row.choices) if row.choices else question.extra["chance"])
        assert (row.choice is None) == (not row.choices)
        start, end = question.evidence
        everywhere = start == 0 and end == row.time_s
        assert row.age_s == (None if everywhere else row.time_s - end)
    aged = sum(score.n for ages in summary.by_age.values() for score in ages.values())
    assert aged == sum(row.age_s is not None for row in rows)


@pytest.mark.model
@pytest.mark.parametrize("left", [0.0, 0.4, 0.97])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(embedded, tmp_path, left):
    # Guidance prompts name the last round, so that answers depend on the rounds before.
    whole = evaluate(config(), tmp_path / "whole", backbone=embedded)
    broken = tmp_path / "broken"
    evaluate(config(), broken, backbone=embedded)
    text = (broken / "rows.jsonl").read_text()
    # Cut within a line.
    (broken / "rows.jsonl").write_text(text[: int(left * len(text))])
    again = evaluate(config(), broken, backbone=embedded)
    assert again._replace(costs={}) == whole._replace(costs={})
    assert told(broken) == told(tmp_path / "whole")


@pytest.mark.model
def test_a_folder_holds_one_run(embedded, tmp_path):
    evaluate(config(), tmp_path, backbone=embedded)
    with pytest.raises(SettingError, match=r"output: got .*another config_hash"):
        evaluate(config("seed=1"), tmp_path, backbone=embedded)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {
        "config_hash",
        "weights",
        "settings",
        "seed",
        "prompts",
        "versions",
        "device",
        "attention",
    } <= set(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "weights": "others"}))
    with pytest.raises(SettingError, match="another weights"):
        evaluate(config(), tmp_path, backbone=embedded)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "rows.jsonl").write_text('{"clip": 0}\n')
    with pytest.raises(InputError, match="line 1: not a row of an evaluation"):
        evaluate(config(), tmp_path, backbone=embedded)


def test_the_default_folder_follows_the_settings():
    one, same, other = (
        default_folder(config()),
        default_folder(config("output=x")),
        default_folder(config("seed=3")),
    )
    assert one == same
    assert one != other
    assert str(one).startswith("runs/eval/wanderer-hermes-24-")


@pytest.mark.model
def test_files_read_back_give_the_same_questions(embedded, tmp_path):
    drawn = config()
    filed = config(f"data.files={tmp_path / 'w'}")
    a = evaluate(drawn, tmp_path / "a", backbone=embedded)
    b = evaluate(filed, tmp_path / "b", backbone=embedded)
    assert [row["question"] for row in told(tmp_path / "a")] == [
        row["question"] for row in told(tmp_path / "b")
    ]
    assert abs(a.overall.right - b.overall.right) <= 3
    assert told(tmp_path / "b")[0]["video"].endswith(".mp4")
    with pytest.raises(SettingError, match=r"data\.files"):
        Wanderer(files=tmp_path / "w", streams=9).clip(0)


@pytest.mark.model
def test_annotated_videos(tmp_path):
    questions = (
        TimedQuestion("Late?", "yes", ("yes", "no"), None, "end"),
        TimedQuestion("Early?", "b", ("a", "b"), 4.0, "start"),
        TimedQuestion("Who knows?", "", (), 6.0, "open"),
    )
    write_annotations(tmp_path / "questions.json", [Clip(CLIP.name, questions, "one")])
    run = eval_config(
        [
            "data=annotations",
            f"data.annotations={tmp_path / 'questions.json'}",
            f"data.videos={CLIP.parent}",
            "backbone=tiny_llava_onevision",
            "generation.max_new_tokens=2",
            "policy.budget=64",
        ]
    )
    assert isinstance(run.data, Annotated)
    summary = evaluate(run, tmp_path / "out")
    rows = list(Journal(tmp_path / "out").rows.values())
    assert [(row.question, row.time_s) for row in rows] == [
        ("Early?", 4.0),
        ("Who knows?", 6.0),
        ("Late?", 48.0),
    ]
    assert summary.unscored == 1
    assert summary.overall.n == 2
    assert summary.overall.chance == 0.5
    assert rows[1].correct is None


def test_no_questions_and_no_settings_of_a_video(tmp_path):
    write_annotations(tmp_path / "q.json", [Clip("a.mp4", (), "one")])
    with pytest.raises(InputError, match="no question in it"):
        len(Annotated(tmp_path / "q.json"))


@pytest.mark.model
def test_the_command_prints_one_object_and_resumes(tmp_path):
    settings = (*SHORT, "data.questions=15", "policy=fifo", "policy.budget=24", f"output={tmp_path / 'run'}")
    first = hermes("eval", "--json", *settings)
    assert first.code == 0, first.err
    (record,) = first.records
    assert record["overall"]["n"] == len(told(tmp_path / "run"))
    assert set(record["by_category"]) == {"real-time", "backward", "sequence", "counting", "hallucination"}
    for score in record["by_kind"].values():
        assert score["low"] <= score["accuracy"] <= score["high"]
        assert 0 < score["chance"] < 1
    assert hermes("eval", "--json", *settings).records == first.records
    page = hermes("eval", *settings)
    assert page.code == 0
    assert "95 % interval" in page.out
    wrong = hermes("eval", "data=wandrer")
    assert wrong.code == 2
    assert "Did you mean 'wanderer'?" in wrong.err


@pytest.mark.model
def test_the_shipped_model_answers(embedded, tmp_path):
    """Far from chance on every solved category, also as multiple choice."""
    for choices, least in ((0.0, 0.95), (1.0, 0.9)):
        run = eval_config(
            [
                "policy=full",
                "data.streams=4",
                f"data.choices={choices}",
                "data.kinds=[now_place,now_colour,now_shape,now_corner,past_colour,past_shape,past_corner]",
            ]
        )
        summary = evaluate(run, tmp_path / str(choices), backbone=embedded)
        assert summary.overall.n > 50
        assert summary.overall.accuracy > least


@pytest.mark.model
def test_forgetting_shows(embedded, tmp_path):
    """A window answers about now and has lost the past; the whole cache has both."""
    found = {}
    for policy in ("full", "fifo"):
        run = eval_config(
            [
                f"policy={policy}",
                "policy.budget=32",
                "data.streams=4",
                "data.world.length=48",
                "data.kinds=[now_place,now_corner,past_colour,past_shape,past_corner,past_colour]",
            ]
        )
        found[policy] = evaluate(run, tmp_path / policy, backbone=embedded).by_category
    assert found["fifo"]["real-time"].accuracy > 0.9
    assert found["full"]["backward"].accuracy > found["fifo"]["backward"].accuracy + 0.2


@pytest.mark.model
def test_two_processes_write_what_one_does(tmp_path):
    """Three videos on two processes: none is asked twice."""
    one = (*SHORT, "policy=hermes", "policy.budget=24", "trainer.accelerator=cpu")
    first = hermes("eval", "--json", *one, "trainer.devices=1", f"output={tmp_path / 'one'}")
    command = [sys.executable, "-m", "hermes", "eval", "--json", *one, "trainer.devices=2"]
    second = process(*command, f"output={tmp_path / 'two'}", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert second.returncode == 0, second.stderr
    printed = {}
    for name, text in (("one", first.out), ("two", second.stdout)):
        (line,) = text.splitlines()
        printed[name] = {
            key: value for key, value in json.loads(line).items() if key not in ("output", "costs")
        }
    assert told(tmp_path / "two") == told(tmp_path / "one")
    assert printed["two"] == printed["one"]
    for kind in ("rows", "clips"):
        assert [path.name for path in (tmp_path / "two").glob(f"{kind}*")] == [f"{kind}.jsonl"]
    clips = [(tmp_path / name / "clips.jsonl").read_text() for name in printed]
    assert clips[0] == clips[1]
    metrics = [(tmp_path / name / "metrics" / "metrics.csv").read_text() for name in printed]
    assert metrics[0] == metrics[1]


@pytest.mark.model
def test_rows_of_two_killed_processes_are_found(embedded, tmp_path):
    whole = evaluate(config(), tmp_path, backbone=embedded)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(lines[::2]))
    (tmp_path / "rows.1.jsonl").write_text("".join(lines[1:-2:2]))
    before = told(tmp_path)
    again = evaluate(config(), tmp_path, backbone=embedded)
    assert again._replace(costs={}) == whole._replace(costs={})
    after = told(tmp_path)
    assert [row for row in after if row in before] == before
    assert len(after) == len(lines)
    assert not (tmp_path / "rows.1.jsonl").exists()


@pytest.mark.model
def test_nothing_is_left_on_a_model_after_an_exception(embedded, tmp_path, monkeypatch):
    import hermes.evaluation.running.asking as asking

    calls = 0

    def fail(*args, **named):
        nonlocal calls
        calls += 1
        raise KeyboardInterrupt if calls == 1 else RuntimeError("a fault")

    before = embedded.model.model.language_model.config._attn_implementation
    monkeypatch.setattr(asking, "_answer", fail)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), tmp_path, backbone=embedded)
    with pytest.raises(RuntimeError, match="a fault"):
        evaluate(config(), tmp_path, backbone=embedded)
    assert embedded.model.model.language_model.config._attn_implementation == before


def test_wrong_trainer_settings_are_named(tmp_path):
    with pytest.raises(SettingError, match=r"trainer: got .*precision=32-flase"):
        evaluate(config("trainer.precision=32-flase"), tmp_path)


def test_world_settings_reach_the_streams():
    run = eval_config(["data.world.length=20", "data.world.scene=2"])
    assert isinstance(run.data, Wanderer)
    assert run.data.world == WorldConfig(length=20, scene=2)
