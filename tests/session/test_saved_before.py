"""Streams and runs that an earlier version saved go on as they would have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hermes.evaluation.results.journal import read_run
from hermes.session.config import run_config
from hermes.session.opening import session_from
from hermes.video import Frame
from tests.support.command_line import hermes

SAVED = Path(__file__).parents[1] / "support" / "saved"
pytestmark = pytest.mark.model


def frames(start: int, count: int) -> list[Frame]:
    images = np.random.default_rng(5).integers(0, 256, (64, 40, 56, 3), np.uint8)
    return [Frame(images[i], i / 2, i) for i in range(start, start + count)]


@pytest.mark.parametrize("name", ["hermes", "h2o", "qwen"])
def test_a_stream_saved_by_an_earlier_version_goes_on(name: str) -> None:
    expected = json.loads((SAVED / name / "expected.json").read_text())
    session = session_from(run_config(expected["settings"]))
    session.resume(SAVED / name)
    session.feed(frames(16, 8))
    assert session.ask("And now?").ids.tolist() == expected["then"]
    assert session.frames_seen == expected["frames_seen"]
    assert [layer.origin.id[0, 0].tolist() for layer in session.memory] == expected["held"]
    positions = [layer.positions[:, 0, 0].tolist() for layer in session.memory if layer.positions is not None]
    assert positions == expected["positions"]


RUN = ("policy=fifo", "policy.budget=32", "data.world.length=8", "data.questions=6", "threads=1")


def test_a_run_of_an_earlier_version_is_finished_with_the_same_rows(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(SAVED / "run", folder)
    whole = (folder / "rows.jsonl").read_text().splitlines()
    first = [line for line in whole if json.loads(line)["clip"] == 0]
    assert 0 < len(first) < len(whole)
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in first))
    clips = (folder / "clips.jsonl").read_text().splitlines()
    (folder / "clips.jsonl").write_text(f"{clips[0]}\n")
    result = hermes("eval", *RUN, "data.streams=2", f"output={folder}")
    assert result.code == 0, result.err
    again = (folder / "rows.jsonl").read_text().splitlines()
    assert again[: len(first)] == first
    told = ("clip", "number", "question", "answer", "correct", "frames_seen", "tokens_per_layer")
    for line, old in zip(again, whole, strict=True):
        ours, theirs = json.loads(line), json.loads(old)
        assert ours.keys() == theirs.keys()
        assert {name: ours[name] for name in told} == {name: theirs[name] for name in told}
    assert len(read_run(folder)[0]) == len(whole)
    assert hermes("report", str(folder)).code == 0
    assert hermes("compare", str(folder), str(SAVED / "run")).code == 0


def test_a_sweep_of_an_earlier_version_has_nothing_left_to_run(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(SAVED / "sweep", folder)
    monkeypatch.setattr("hermes.evaluation.sweeps.running.evaluate", None)
    cells = (
        "policy=fifo",
        "policy.budget=16,32",
        "data.world.length=8",
        "data.streams=1",
        "data.questions=4",
    )
    result = hermes("sweep", *cells, "threads=1", f"output={folder}")
    assert result.code == 0, result.err
    assert (folder / "table.csv").is_file()
