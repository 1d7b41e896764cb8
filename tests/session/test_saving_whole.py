"""A save over a save: the old stream or the new one is there, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hermes.backbone import Backbone, BackboneConfig, load_backbone
from hermes.errors import InputError
from hermes.files import WriteError
from hermes.policies.h2o import H2O
from hermes.session.session import StreamSession
from tests.session.test_session import SHORT, frames
from tests.support.faults import counted
from tests.support.references import identical

pytestmark = pytest.mark.model
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(BackboneConfig(family="tiny_llava_onevision"))


def streamed(backbone: Backbone, count: int = 0) -> StreamSession:
    made = StreamSession(backbone, H2O(budget=24), chunk_frames=4, fps=1, generation=SHORT)
    made.feed(frames(0, count))
    made.flush()
    return made


def killed_saves(folder: Path, random_kills: int, stride: int) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_saves", folder, str(random_kills), str(stride)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    found = report["found"]
    assert not any(name.startswith("mixed") for name in found), found
    assert found["old, killed"] > 0
    assert stride > 1 or found["new, killed"] > 0
    # What the killed ones left is gone.
    memory, *rest = sorted(report["left"])
    assert rest[-1].startswith("policy.")
    assert [memory, *rest[:-1]] == sorted(["memory.json", "mine.txt", *{memory, rest[0]} - {"memory.json"}])


@pytest.mark.slow
def test_a_process_that_is_killed_as_it_saves_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    killed_saves(tmp_path, 3, 13)


@pytest.mark.thorough
def test_kills_at_every_call_and_a_hundred_at_any_time(tmp_path: Path) -> None:
    killed_saves(tmp_path, 100, 1)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.thorough)])
def test_a_disk_that_fills_at_any_call_leaves_the_old_stream(
    stride: int, backbone: Backbone, tmp_path: Path
) -> None:
    old, new, again = streamed(backbone, 8), streamed(backbone, 16), streamed(backbone)
    held = [tensor.clone() for tensor in new.memory.state()]
    old.save(tmp_path)
    with counted(tmp_path) as count:
        old.save(tmp_path)
    errors = []
    for at in range(1, count.calls + 1, stride):
        old.save(tmp_path)
        error = None
        with counted(tmp_path, at):
            try:
                new.save(tmp_path)
            except WriteError as caught:
                error = caught
        errors += [error] if error else []
        again.resume(tmp_path)
        # Where it was not refused, only tidying failed.
        there = old if error else new
        assert identical(again.memory, list(there.memory.state()))
        assert identical(new.memory, held)
        new.save(tmp_path)
        again.resume(tmp_path)
        assert identical(again.memory, held)
        assert len(os.listdir(tmp_path)) == 3
    assert len(errors) > count.calls / stride / 2
    assert all(str(tmp_path) in str(error) and "No space left on device" in str(error) for error in errors)


def test_files_of_others_stay_and_a_record_of_others_is_not_overwritten(
    backbone: Backbone, tmp_path: Path
) -> None:
    others = (
        "memory.safetensors",
        "memory.0123456789abcdef.safetensors",
        "memory_old.safetensors",
        "policy.safetensors",
        ".unfinished-mine",
        "notes.txt",
    )
    for name in others:
        (tmp_path / name).write_bytes(b"mine " * 50)
    one, again = streamed(backbone, 8), streamed(backbone)
    for _ in range(3):
        one.save(tmp_path)
    again.resume(tmp_path)
    assert identical(again.memory, list(one.memory.state()))
    assert all((tmp_path / name).read_bytes() == b"mine " * 50 for name in others)
    assert len(os.listdir(tmp_path)) == len(others) + 3
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "memory.json").write_text('{"dear": "diary"}')
    with pytest.raises(InputError, match="is there already, and is no record"):
        one.save(foreign)
    assert os.listdir(foreign) == ["memory.json"]
    # What a lost write leaves is in nobody's way.
    (foreign / "memory.json").write_bytes(b"")
    one.save(foreign)
    again.resume(foreign)


def test_a_stream_of_an_earlier_version_is_replaced(backbone: Backbone, tmp_path: Path) -> None:
    from tests.session.test_saved_before import SAVED

    for name in ("memory.json", "memory.safetensors", "policy.safetensors"):
        (tmp_path / name).write_bytes((SAVED / "h2o" / name).read_bytes())
    one, again = streamed(backbone, 8), streamed(backbone)
    one.save(tmp_path)
    again.resume(tmp_path)
    assert identical(again.memory, list(one.memory.state()))
    assert len(os.listdir(tmp_path)) == 3


def test_who_reads_while_another_saves_finds_one_of_the_two(backbone: Backbone, tmp_path: Path) -> None:
    states = [streamed(backbone, 8), streamed(backbone, 16)]
    held = [list(one.memory.state()) for one in states]
    states[0].save(tmp_path)
    over = threading.Event()

    def save() -> None:
        for turn in range(40):
            states[turn % 2].save(tmp_path)
        over.set()

    saving = threading.Thread(target=save)
    saving.start()
    again, reads = streamed(backbone), 0
    while not over.is_set() or not reads:
        again.resume(tmp_path)
        assert any(identical(again.memory, state) for state in held)
        reads += 1
    saving.join()
