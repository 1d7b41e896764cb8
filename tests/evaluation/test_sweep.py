"""Sweeps: products, experiment files, resuming after a kill, cells that fail."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hermes.bench import bench_identity
from hermes.config import Extras, available, experiment_extras
from hermes.errors import InputError, SettingError
from hermes.evaluation.reports.sweep_page import check_extras, sweep_rows, write_sweep
from hermes.evaluation.scoring.summary import summarise
from hermes.evaluation.sweeps.cells import SweepCell, cells_of, matching, split_axes
from hermes.evaluation.sweeps.running import Outcome, in_processes, on_cluster, run_cells
from tests.support.command_line import hermes
from tests.support.runs import experiment, row

TINY = (
    *("data.streams=1", "data.questions=3", "data.world.length=8", "generation.max_new_tokens=2"),
    *("policy.budget=8", "threads=1"),
)


def test_commas_separate_values_but_not_within_brackets_and_quotes():
    words = ["policy=fifo,hermes", "data.kinds=[order,visited]", "a='x,y'", "b={k: 1,l: 2},{k: 2}", "c=3"]
    fixed, axes = split_axes(words)
    assert fixed == ["data.kinds=[order,visited]", "a='x,y'", "c=3"]
    assert axes == {"policy": ["fifo", "hermes"], "b": ["{k: 1,l: 2}", "{k: 2}"]}
    assert split_axes(["a=1", "a=2,3"]) == ([], {"a": ["2", "3"]})
    assert split_axes(["a=2,3", "a=1"]) == (["a=1"], {})


def test_the_product_in_order():
    cells = cells_of(["policy=fifo,uniform", "seed=0,1", "policy.budget=9"])
    assert [cell.label for cell in cells] == [
        *("policy=fifo seed=0", "policy=fifo seed=1", "policy=uniform seed=0", "policy=uniform seed=1")
    ]
    assert len({cell.hash for cell in cells}) == 4
    assert cells_of(["policy=fifo", "policy.budget=9", "seed=1"])[0].hash == cells[1].hash


def test_values_in_brackets_and_quotes_make_cells():
    cells = cells_of(["data.kinds=[order],[visited,order]", "policy.prompts.local_text='a, b','c'"])
    assert [cell.values["data.kinds"] for cell in cells] == ["[order]"] * 2 + ["[visited,order]"] * 2
    assert [cell.values["policy.prompts.local_text"] for cell in cells] == ["'a, b'", "'c'"] * 2


def test_every_cell_is_checked_before_any_runs():
    with pytest.raises(InputError, match=r"cell policy=hermse: policy: got 'hermse'"):
        cells_of(["policy=fifo,hermse"])
    with pytest.raises(InputError, match="two cells are the same run: seed=0 and seed=00"):
        cells_of(["seed=0,00"])
    with pytest.raises(SettingError, match="experiment: got 'tabel'"):
        cells_of(["experiment=tabel"])
    with pytest.raises(InputError, match=r"trainer\.devices: got 2; .*--jobs"):
        cells_of(["policy=fifo,uniform", "trainer.devices=2"])


def test_an_experiment_file_has_axes_cells_and_a_title(tmp_path):
    chosen = experiment(
        tmp_path,
        """
        title: A try
        paper: {hermes: 60.6}
        policy.budget: 12
        sweep: {seed: [0, 1]}
        cells:
          window: {policy: fifo}
          spread: {policy: uniform, policy.align: frame}
        """,
    )
    cells = cells_of([chosen])
    assert [cell.label for cell in cells] == [
        "window seed=0",
        "window seed=1",
        "spread seed=0",
        "spread seed=1",
    ]
    # The command line comes last.
    assert [cell.label for cell in cells_of([chosen, "seed=5"])] == ["window", "spread"]
    assert [cell.label for cell in cells_of([chosen, "seed=5,6"])][:2] == ["window seed=5", "window seed=6"]
    for part in ("title: [a]", "sweep: 3", "cells: x"):
        with pytest.raises(InputError, match=f"{part.partition(':')[0]} must be"):
            cells_of([experiment(tmp_path, part)])


def test_a_setting_may_follow_a_swept_one_and_cells_besides_list_values(tmp_path):
    text = """
        sweep: {policy.budget: [8, 12, 16], seed: [0, 1]}
        cells:
          window: {policy: fifo}
          changes: {policy: dtd, policy.keep: {policy.budget: {12: 0.25, 16: 0.5}}}
        besides:
          all: {policy: full, policy.budget: 99, seed: [0, 1]}
        """
    chosen = experiment(tmp_path, text)
    cells = cells_of([chosen])
    assert [cell.label for cell in cells if "changes" in cell.values] == [
        f"changes policy.budget={budget} seed={seed}" for budget in (12, 16) for seed in (0, 1)
    ]
    kept = [word for cell in cells for word in cell.overrides if word.startswith("policy.keep=")]
    assert kept == ["policy.keep=0.25"] * 2 + ["policy.keep=0.5"] * 2
    assert [cell.label for cell in cells[-2:]] == [f"all policy.budget=99 seed={seed}" for seed in (0, 1)]
    assert len(cells) == 6 + 4 + 2
    assert [cell.label for cell in cells_of([chosen, "seed=1,2"])][-1] == "all policy.budget=99 seed=1"
    lists = "{sweep: {data.kinds: [[order], [visited]]}, besides: {all: {data.kinds: [order, visited]}}}"
    assert [cell.values["data.kinds"] for cell in cells_of([experiment(tmp_path, lists)])] == [
        *('["order"]', '["visited"]', '["order", "visited"]')
    ]
    chosen = experiment(tmp_path, text)
    given = cells_of([chosen, "policy.budget=12"])
    assert [cell.label for cell in given[:4]] == [
        *("window seed=0", "window seed=1", "changes seed=0", "changes seed=1")
    ]


def fake(cells, folder):
    for i, cell in enumerate(cells):
        score = {"right": i, "n": 10, "chance": 0.25, "accuracy": i / 10, "low": 0.0, "high": 1.0}
        record = {"overall": score, "by_category": {"backward": score}, "by_kind": {}, "by_age": {}}
        yield Outcome(cell, None, "ValueError: no") if i == 1 else Outcome(cell, record)


def test_the_table_has_a_line_a_cell_and_says_what_failed(tmp_path):
    cells = [
        SweepCell({"policy": name, "policy.budget": str(b)}, (), f"{name}{b}")
        for name in "ab"
        for b in (8, 16, 24)
    ]
    outcomes = list(run_cells(cells, tmp_path, fake))
    page = write_sweep(
        outcomes, tmp_path, Extras("A try", paper={"hermes": 60.6, "policy=a policy.budget=8": 3.5})
    ).read_text()
    assert page.startswith("# A try\n")
    assert "| policy | policy.budget | all | published: all |" in page
    assert "| a | 8 | 0.0 (0-100) | 3.5 |" in page
    assert "- policy=a policy.budget=8" not in page
    assert "- policy=a policy.budget=16: ValueError: no" in page
    assert "- hermes: 60.6" in page
    assert (tmp_path / "plot.png").stat().st_size > 5_000
    rows = sweep_rows(outcomes)
    assert [row["accuracy"] for row in rows if row["group"] == "overall"] == [0.0, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.model
def test_a_killed_sweep_does_only_what_is_missing(tmp_path):
    settings = [*TINY, "policy=fifo,uniform,random", "seed=0,1"]
    command = [sys.executable, "-m", "hermes", "sweep", *settings]
    broken = subprocess.Popen([*command, "output=broken"], cwd=tmp_path, start_new_session=True)
    cells = tmp_path / "broken" / "cells"
    deadline = time.monotonic() + 100
    while len(list(cells.glob("*/done.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    # The whole group: the cell that runs, too.
    subprocess.run(["kill", "-KILL", "--", f"-{broken.pid}"], check=True)
    assert broken.wait() == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/done.json")}
    assert 2 <= len(before) < 6
    plan = hermes("sweep", *settings, f"output={tmp_path / 'broken'}", "--dry-run")
    assert plan.out.count("done ") == len(before)
    assert plan.out.count("missing") == 6 - len(before)
    for name in ("broken", "whole"):
        done = hermes("sweep", *settings, f"output={tmp_path / name}")
        assert done.code == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    one, two = ((tmp_path / name / "table.csv").read_text() for name in ("broken", "whole"))
    assert one == two


@pytest.mark.model
def test_a_failing_cell_stops_no_other(tmp_path):
    settings = [*TINY, f"output={tmp_path}", "policy=fifo", "policy.budget=2,8"]
    result = hermes("sweep", *settings, "--json")
    assert result.code == 1
    failed, done = result.records
    assert "policy.budget: got 2" in failed["error"]
    assert done["overall"]["n"] == 3
    assert "failed: policy.budget=2" in result.err
    assert len(list(tmp_path.glob("cells/*/failed.txt"))) == 1


@pytest.mark.model
def test_a_cell_whose_process_is_killed_stops_no_other(tmp_path):
    cells = cells_of([*TINY, "policy=tests.support.killing.Killed,fifo,uniform"])
    found = {outcome.cell.label: outcome for outcome in run_cells(cells, tmp_path, in_processes(2))}
    assert "BrokenProcessPool" in found["policy=tests.support.killing.Killed"].error
    for name in ("fifo", "uniform"):
        assert found[f"policy={name}"].record["overall"]["n"] == 3


@pytest.mark.model
@pytest.mark.parametrize("launcher", ["processes", "submitit"])
def test_launchers_come_to_the_same(tmp_path, launcher):
    # A job of submitit's imports everything for itself.
    seeds = [0] if launcher == "submitit" else [0, 1]
    cells = cells_of([*TINY, "policy=fifo", f"seed={','.join(map(str, seeds))}"])
    if launcher == "submitit":
        pytest.importorskip("submitit")
    launch = in_processes(2) if launcher == "processes" else on_cluster("local", 1, {"timeout_min": 5})
    found = sorted(run_cells(cells, tmp_path, launch), key=lambda outcome: outcome.cell.label)
    assert [outcome.error for outcome in found] == [""] * len(seeds)
    assert [outcome.record["overall"]["n"] for outcome in found] == [3] * len(seeds)
    kept = [json.loads((tmp_path / "cells" / cell.hash / "done.json").read_text()) for cell in cells]
    assert kept == [outcome.record for outcome in found]


def test_wrong_launchers_are_refused():
    wrong = hermes("sweep", "policy=fifo,uniform", "--launcher", "slurm")
    assert wrong.code == 2
    assert "--launcher: got 'slurm'; allowed: processes, submitit-local, submitit-slurm" in wrong.err
    assert hermes("sweep", "policy=fifo,uniform", "--launch", "a=1").code == 2


def test_only_some_cells(tmp_path):
    chosen = experiment(
        tmp_path, "cells: {'Qwen, 4K': {seed: 1}, 'LLaVA, 4K': {seed: 2}, 'LLaVA, 6K': {seed: 3}}"
    )
    cells = cells_of([chosen])
    assert [cell.label for cell in matching(cells, "llava*")] == ["LLaVA, 4K", "LLaVA, 6K"]
    with pytest.raises(SettingError, match=r"--only: got 'LLaVA 4K'.*Did you mean 'LLaVA, 4K'"):
        matching(cells, "LLaVA 4K")
    plan = hermes("sweep", chosen, f"output={tmp_path}", "--dry-run", "--only", "*4K")
    assert plan.out.count("missing") == 2
    # A cell that is done stays in the table.
    (tmp_path / "cells" / cells[2].hash).mkdir(parents=True)
    record = summarise([row(0, 0, True)]).record()
    (tmp_path / "cells" / cells[2].hash / "done.json").write_text(json.dumps(record))
    plan = hermes("sweep", chosen, f"output={tmp_path}", "--dry-run", "--only", "*4K")
    assert (plan.out.count("missing"), plan.out.count("done ")) == (2, 1)


# What others inherit from, and what is for `hermes investigate`.
NO_SWEEPS = {"paper", "embedded", "robust_embedded", "fig2", "fig2_embedded", "fig6", "fig6_embedded"}
EXPERIMENTS = [name for name in available("experiment") if name not in NO_SWEEPS]
MEASURED = [name for name in EXPERIMENTS if name.startswith("table3")]


def on_embedded(name: str) -> bool:
    return name == "rivals" or name.endswith("_embedded")


@functools.cache
def cells_in(name):
    if name in MEASURED:
        return cells_of([f"experiment={name}"], identify=bench_identity)
    given = [] if on_embedded(name) else ["data.annotations=questions.json"]
    # One line of many: composing all takes its time.
    given += ["policy.budget=13", "data.seed=0,1"] if name == "rivals" else []
    given += ["policy.budget=1000"] if name.startswith("rivals_") else []
    return cells_of([f"experiment={name}", *given])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_experiments_are_sound(name):
    assert len(cells_in(name)) > 1
    extras = experiment_extras([f"experiment={name}"])
    assert extras.title
    there = {key for cell in cells_in(name) for key, value in cell.values.items() if value}
    check_extras(cells_in(name), extras._replace(pool=[key for key in extras.pool if key in there]))


# No paper has all methods at the same budgets, nor this decoder.
OURS = ("rivals_", "smol")
PUBLISHED = [name for name in EXPERIMENTS if not on_embedded(name) and not name.startswith(OURS)]
COLUMNS = {
    "ovobench": {"real-time", "backward", "all"},
    "videomme": {"short", "medium", "long", "all"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_stand_beside_cells(name):
    extras = experiment_extras([f"experiment={name}"])
    labels = {cell.label for cell in cells_in(name)}
    beside = {label: found for label, found in extras.paper.items() if label in labels}
    others = [label for label in extras.paper if label not in labels]
    assert beside
    # What is no cell's is printed as it is.
    assert all(label.startswith(("Table 14, ", "score of 1 to 5, ")) for label in others)
    for found in beside.values():
        columns = found if isinstance(found, dict) else {"all": found}
        if name not in MEASURED:
            assert all(0 < number < 100 for number in columns.values())
        if known := next((COLUMNS[data] for data in COLUMNS if name.endswith(data)), None):
            assert columns.keys() <= known


def test_the_published_averages_follow_from_the_published_tasks():
    # Table 14: a category is the mean of its tasks, and "all" the mean of the two categories.
    paper = experiment_extras(["experiment=table1_ovobench"]).paper
    tasks = {label: found for label, found in paper.items() if label.startswith("Table 14, ")}
    assert len(tasks) == 18
    for label, found in tasks.items():
        model, kind = label.removeprefix("Table 14, ").rsplit(", ", 1)
        names = [f"{model}, {kind}", f"{model}, release {kind}", f"{model}, hermes {kind}"]
        numbers = list(found.values())
        means = {"real-time": sum(numbers[:6]) / 6, "backward": sum(numbers[6:]) / 3}
        means["all"] = sum(means.values()) / 2
        for name in names:
            if name in paper:
                assert paper[name] == pytest.approx(means, abs=0.02)
        assert any(name in paper for name in names)


@pytest.mark.model
def test_an_experiment_of_the_paper_runs(tmp_path):
    np.save(tmp_path / "walk.npy", np.random.default_rng(0).integers(0, 256, (12, 42, 42, 3), np.uint8))
    asked = {"question": "Which?", "choices": ["red", "blue"], "answer": "red"}
    clip = {"video_path": "walk.npy", "duration_category": "long", "conversations": [asked]}
    (tmp_path / "mme.json").write_text(json.dumps([clip]))
    given = [f"data.annotations={tmp_path / 'mme.json'}", f"output={tmp_path}", "threads=1"]
    tiny = ["backbone=tiny_llava_onevision", "backbone.dtype=float32", "policy.budget=12"]
    found = hermes("sweep", "experiment=table9", *given, *tiny, "--json")
    assert found.code == 0, found.err
    assert [record["cell"] for record in found.records] == [{"base": ""}, {"lazy": ""}, {"eager": ""}]
    assert all(record["by_category"]["long"]["n"] == 1 for record in found.records)
    assert "57.67" in (tmp_path / "table.md").read_text()
