"""Long commands that are killed at any moment, and then done again: the same table, the same model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.command_line import process

ROOT = Path(__file__).parents[2]


@pytest.mark.thorough
@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["eval", "sweep", "judge", "train", "investigate"])
def test_a_command_that_is_killed_comes_to_the_same_when_it_is_done_again(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.killed_commands", name, str(tmp_path), "20"]
    done = process(*command, cwd=ROOT, timeout=800, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert sum(found.values()) == 20
    assert found.get("killed, same", 0) >= 5
    assert all(name.endswith("same") for name in found), found
