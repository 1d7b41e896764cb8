"""Commands on a small disk that is really full, where a test may mount one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_machine_faults import RUN, command, told
from tests.support.command_line import hermes

pytestmark = pytest.mark.model
KB = 1024
# Of the disk, and what is free for the command: nothing, some of the small files, all but the pictures.
SIZE, FREE = 600 * KB, (0, 6 * KB, 40 * KB)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=True)


def fill(disk: Path, free: int) -> Path:
    left = shutil.disk_usage(disk).free - free
    filler = disk / "filler"
    filler.write_bytes(b"\0" * max(left, 0))
    return filler


@pytest.mark.parametrize("name", ["eval", "map", "report"])
def test_a_full_disk_is_named_and_the_same_command_goes_on(name: str, disk: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    if name == "report":
        assert hermes(*command("eval", whole)).code == 0
    start = [shutil.copytree(whole, tmp_path / "start")] if name == "report" else []
    assert hermes(*command(name, whole)).code == 0
    wanted, refused = told(whole), 0
    for at, free in enumerate(FREE):
        folder = disk / f"at{at}"
        for one in start:
            shutil.copytree(one, folder)
        filler = fill(disk, free)
        result = hermes(*command(name, folder))
        assert result.code in (0, 2), result.err
        if result.code:
            refused += 1
            said = "".join(result.err.split())
            assert str(folder) in said, result.err
            assert "Nospaceleftondevice" in said, result.err
        filler.unlink()
        assert hermes(*command(name, folder)).code == 0
        assert told(folder) == wanted
        shutil.rmtree(folder)
    assert refused


@pytest.mark.thorough
def test_a_sweep_on_a_full_disk_names_its_cells_and_goes_on(disk: Path, tmp_path: Path) -> None:
    words = ("sweep", *RUN, "policy=fifo,uniform", "threads=1")
    assert hermes(*words, f"output={tmp_path / 'whole'}").code == 0
    filler = fill(disk, 8 * KB)
    first = hermes(*words, f"output={disk / 'sweep'}")
    assert first.code in (1, 2)
    assert "".join(str(disk).split()) in "".join(first.err.split())
    filler.unlink()
    assert hermes(*words, f"output={disk / 'sweep'}").code == 0
    one, other = ((folder / "table.csv").read_text() for folder in (disk / "sweep", tmp_path / "whole"))
    assert one == other
