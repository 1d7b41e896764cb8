"""A run goes on only with what made it; no other file of its folder is read, changed or removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hermes.backbone import load_backbone
from hermes.errors import InputError, SettingError
from hermes.evaluation import Journal, eval_config, evaluate, judge_run, write_report
from hermes.evaluation.judging.judges import WordsJudge
from hermes.evaluation.results.journal import gather, read_run
from hermes.evaluation.results.run_folder import claim, read_manifest, settings_difference
from hermes.evaluation.sweeps.cells import SweepCell
from hermes.evaluation.sweeps.running import run_cells
from tests.support.command_line import hermes
from tests.support.runs import answers, row, write_run

ABOUT: dict[str, Any] = {
    "config_hash": "0" * 16,
    "weights": "abc",
    "questions": "q",
    "fingerprint": "f" * 32,
    "dtype": "float32",
    "device": "cuda:0",
    "attention": "hermes_memory on PyTorch SDPA (cuda)",
    "settings": "policy: {name: fifo, budget: 8}\noutput: a",
    "versions": {"hermes-stream": "1", "torch": "2", "transformers": "5", "numpy": "2"},
}


def other(name: str) -> dict[str, Any]:
    if name in ABOUT["versions"]:
        return {**ABOUT, "versions": {**ABOUT["versions"], name: "9"}}
    return {**ABOUT, name: "cpu" if name == "device" else "another"}


def test_files_of_a_user_stay_as_they_are(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [row(0, 0, True), row(0, 1, False)])
    line = (folder / "rows.jsonl").read_text().splitlines()[0].replace('"number": 0', '"number": 7')
    foreign = [
        "rows_old.jsonl",
        "rows.old.jsonl",
        "rows.jsonl.bak",
        "rows.01.jsonl",
        "rows.-1.jsonl",
        "clips_x.jsonl",
    ]
    foreign += [
        "rows.1.jsonl.swp",
        "rowsx.jsonl",
        "broken_by_me.jsonl",
        "rows.0.jsonl",
        "Rows.jsonl",
        "rows.1 .jsonl",
    ]
    for name in foreign:
        (folder / name).write_text(f"{line}\nno json\n")
    (folder / "rows.2.jsonl").write_text(line.replace('"number": 7', '"number": 2') + "\n")
    assert [one.number for one in gather(folder)] == [0, 1, 2]
    judge_run(folder, WordsJudge())
    write_report(folder)
    assert len(read_run(folder)[0]) == 3
    for name in foreign:
        assert (folder / name).read_text() == f"{line}\nno json\n", name
    assert not (folder / "rows.2.jsonl").exists()


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "manifest.json", "clips.jsonl", "judged.jsonl", "broken.jsonl"]
)
def test_a_link_out_of_the_folder_is_not_followed(name: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", answers())
    secret = tmp_path / "secret"
    secret.write_text((folder / name).read_text() if (folder / name).exists() else "secret\n")
    before = secret.read_text()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    read = {"manifest.json": read_manifest, "judged.jsonl": lambda where: judge_run(where, WordsJudge())}
    with pytest.raises(InputError, match="leads out of"):
        read.get(name, Journal)(folder)
    assert secret.read_text() == before


def test_a_folder_or_a_pipe_in_the_place_of_a_file(tmp_path: Path) -> None:
    for make in (Path.mkdir, os.mkfifo):
        folder = write_run(tmp_path / make.__name__, answers())
        (folder / "rows.1.jsonl").unlink(missing_ok=True)
        make(folder / "rows.1.jsonl")
        with pytest.raises(InputError, match=r"rows\.1\.jsonl: needed: a file"):
            Journal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "config_hash",
        "weights",
        "questions",
        "fingerprint",
        "dtype",
        "device",
        "attention",
        "hermes-stream",
        "torch",
    ],
)
def test_every_difference_is_refused_and_named(name: str, tmp_path: Path) -> None:
    claim(tmp_path, ABOUT)
    claim(tmp_path, {**ABOUT, "device": "cuda:1", "seed": 3})
    before = (tmp_path / "manifest.json").read_text()
    with pytest.raises(SettingError, match=f"another {name} .*{name}: .*--anyway"):
        claim(tmp_path, other(name))
    assert (tmp_path / "manifest.json").read_text() == before
    for _ in range(2):
        claim(tmp_path, other(name), anyway=True, count=lambda: 7)
    kept = read_manifest(tmp_path)
    (mixed,) = kept["mixed"]
    assert list(mixed["differences"]) == [name]
    assert mixed["after_rows"] == 7
    # What made the first part is still what a run must agree with.
    claim(tmp_path, ABOUT)
    with pytest.raises(SettingError):
        claim(tmp_path, other(name))


def test_all_differences_are_named_with_the_settings(tmp_path: Path) -> None:
    claim(tmp_path, ABOUT)
    now = {**other("torch"), "dtype": "bfloat16", "config_hash": "1" * 16}
    now["settings"] = "policy: {name: hermes, budget: 8, late: 1}\noutput: b"
    with pytest.raises(SettingError) as caught:
        claim(tmp_path, now)
    for part in ("policy.name: fifo, now hermes", "policy.late: None, now 1", "torch: 2, now 9", "bfloat16"):
        assert part in str(caught.value)
    assert "output: a" not in str(caught.value)


def test_a_run_of_an_earlier_version_goes_on_with_a_warning(tmp_path: Path, caplog) -> None:
    old = {k: v for k, v in ABOUT.items() if k not in ("fingerprint", "dtype")}
    claim(tmp_path, {**old, "versions": {"torch": "1"}})
    claim(tmp_path, ABOUT)
    assert "cannot be compared: fingerprint, dtype" in caplog.text
    assert "torch: 1, now 2" in caplog.text
    with pytest.raises(SettingError, match="another weights"):
        claim(tmp_path, {**ABOUT, "weights": "others"})


def test_a_page_tells_that_a_run_is_mixed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", answers(), **ABOUT)
    claim(folder, other("torch"), anyway=True, count=lambda: 4)
    page = write_report(folder).read_text()
    assert "**Not one run.**" in page
    assert "- after 4 answers: torch: 2, then 9" in page


@pytest.mark.model
def test_other_weights_of_one_shape_are_seen(tmp_path: Path) -> None:
    given = ("policy=fifo", "policy.budget=16", "data.streams=1", "data.world.length=8", "data.questions=2")
    config, backbone = eval_config([*given, "generation.max_new_tokens=1"]), load_backbone("embedded")
    evaluate(config, tmp_path, backbone=backbone)
    weight = backbone.model.get_input_embeddings().weight
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight, "data", weight.data + 1e-4)
        with pytest.raises(SettingError, match="another fingerprint"):
            evaluate(config, tmp_path, backbone=backbone)
        assert evaluate(config, tmp_path, backbone=backbone, anyway=True).overall.n > 0
    found = hermes("eval", *given, "generation.max_new_tokens=1", f"output={tmp_path}", "--json")
    assert found.code == 0, found.err
    assert [list(one["differences"]) for one in found.records[0]["mixed"]] == [["fingerprint"]]


def test_a_sweep_goes_on_with_its_versions_alone(tmp_path: Path) -> None:
    cells = [SweepCell({"policy": name}, (), name) for name in ("a", "b")]
    write_run(tmp_path / "cells" / "a", answers(), **other("torch"))
    done = {"overall": {"right": 0, "n": 0, "chance": None, "accuracy": 0, "low": 0, "high": 1}}
    done |= {"by_category": {}, "by_kind": {}}
    (tmp_path / "cells" / "a" / "done.json").write_text(json.dumps(done))
    launched: list[str] = []

    def launch(missing, folder):
        launched.extend(cell.hash for cell in missing)
        return iter(())

    with pytest.raises(SettingError, match="torch: 9, now"):
        list(run_cells(cells, tmp_path, launch))
    assert not launched
    assert len(list(run_cells(cells, tmp_path, launch, anyway=True))) == 1
    assert launched == ["b"]
    # With nothing left to run there is nothing to mix.
    assert len(list(run_cells(cells[:1], tmp_path, launch))) == 1


def test_a_judge_goes_on_with_its_version_alone(tmp_path: Path, monkeypatch) -> None:
    folder = write_run(tmp_path / "run", answers())
    judge_run(folder, WordsJudge())
    lines = (folder / "judged.jsonl").read_text().splitlines(keepends=True)
    (folder / "judged.jsonl").write_text("".join(lines[:2]))
    # As a run that was stopped: rows without verdicts.
    rows = (folder / "rows.jsonl").read_text()
    identity = WordsJudge().identity
    (folder / "rows.jsonl").write_text(rows.replace(f'"judge": "{identity}"', '"judge": null'))
    monkeypatch.setattr("hermes.evaluation.judging.judge_run.__version__", "9.9")
    with pytest.raises(SettingError, match="began with version"):
        judge_run(folder, WordsJudge())
    judge_run(folder, WordsJudge(), anyway=True)
    assert read_manifest(folder)["judge"]["version"].endswith(", 9.9")


def test_differences_are_of_settings(tmp_path: Path) -> None:
    found = settings_difference({"settings": "a: ${oc.env:HOME}"}, {"settings": "a: 1"})
    assert found == {"a": ("${oc.env:HOME}", 1)}
