"""Damaged videos of fourteen containers, in a process with limits on memory and time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _read(first: int, count: int) -> str:
    """What the process prints; fails with the case that it died of."""
    command = [sys.executable, "-m", "tests.support.video_fuzz", str(first), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_damaged_videos_are_read_or_refused() -> None:
    figures = _read(0, 1000)
    assert "1000 reads" in figures
    assert figures.count("refused") >= 10
    assert figures.count("read with warnings") >= 8


@pytest.mark.thorough
def test_many_damaged_videos_are_read_or_refused() -> None:
    assert "20000 reads" in _read(1_000_000, 20_000)
