"""Commands on a machine that refuses: the path is named, the exit code is 2, and the same again goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.command_line import FAST, hermes
from tests.support.faults import counted

pytestmark = pytest.mark.model
RUN = ("policy=fifo", "policy.budget=32", "data.world.length=8", "data.questions=2", "data.streams=1")
COMMANDS = {
    "eval": ("eval", *RUN, "threads=1", "output={folder}"),
    "map": ("ask", "sample", "What?", *FAST, "video.end=4", "--memory-map", "{folder}/deep/map.png"),
    "report": ("report", "{folder}"),
}


def command(name: str, folder: Path) -> Sequence[str]:
    return [word.format(folder=folder) for word in COMMANDS[name]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert hermes(*command("eval", folder)).code == 0
    return folder


def told(folder: Path) -> tuple[list[str], list[tuple[object, ...]]]:
    """What a folder holds: names of files, and what was answered."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    rows = folder / "rows.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return names, [tuple(line[key] for key in ("clip", "number", "answer", "correct")) for line in lines]


def at_every(name: str, points: int, run: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    start = tmp_path / "start"
    start.mkdir()
    if name == "report":
        shutil.copytree(run, start, dirs_exist_ok=True)
    shutil.copytree(start, whole)
    with counted(whole) as count:
        assert hermes(*command(name, whole)).code == 0
    wanted, refused = told(whole), 0
    calls = range(1, count.calls + 1)
    for at in calls if points == 0 else calls[:: max(count.calls // points, 1)]:
        folder = tmp_path / f"at{at}"
        shutil.copytree(start, folder)
        with counted(folder, at):
            result = hermes(*command(name, folder))
        assert result.code in (0, 2), (at, result.err)
        if result.code:
            refused += 1
            said = "".join(result.err.split())
            assert str(folder) in said, result.err
            assert "Nospaceleftondevice" in said
            assert "whatwasfinishediskept" in said
        again = hermes(*command(name, folder))
        assert again.code == 0, (at, again.err)
        assert told(folder) == wanted
        shutil.rmtree(folder)
    assert refused


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_is_named_and_the_same_command_goes_on(
    name: str, run: Path, tmp_path: Path
) -> None:
    at_every(name, 3, run, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_at_any_write_of_a_command(name: str, run: Path, tmp_path: Path) -> None:
    at_every(name, 0, run, tmp_path)


def test_places_that_cannot_be_written_to_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "far")
    long = f"{tmp_path}/{'/'.join(['a' * 100] * 50)}"
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "nowhere", long, "/proc/run"):
        for name in ("eval", "map"):
            result = hermes(*command(name, Path(folder)))
            assert result.code == 2, (folder, name, result.err)
            assert str(folder)[:60] in "".join(result.err.split())
            assert "fault of Hermes" not in result.err


@pytest.mark.parametrize("left", ["", "half"])
def test_a_training_is_not_locked_out_by_what_it_could_not_write(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes.training.run.train_model", lambda config, folder: folder / "model")
    words = ("train", f"output={tmp_path}")
    assert hermes(*words).code == 0
    kept = tmp_path / "config.yaml"
    whole = kept.read_text()
    kept.write_text(whole[: len(whole) // 2] if left else "")
    assert hermes(*words).code == 0
    assert kept.read_text() == whole
    kept.write_text(whole.replace("seed", "speed", 1))
    other = hermes(*words)
    assert other.code == 2
    assert "It holds a run with other settings" in " ".join(other.err.split())
