"""A model whose heads are split over two processes answers and remembers as one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hermes.backbone import save_checkpoint
from tests.support.families import tiny
from tests.support.tiny_text import write_text_model

pytestmark = pytest.mark.model

ROOT = Path(__file__).parents[2]


def split(folder: Path, kind: str, *policies: str) -> dict[str, str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*run, "-m", "tests.support.split_heads", str(folder), kind, *policies]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env=variables
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    found: dict[str, str] = json.loads(line)
    return found


def test_heads_split_over_two_processes(tmp_path: Path) -> None:
    save_checkpoint(tiny("qwen2_5_vl"), tmp_path / "model")
    found = split(tmp_path / "model", "AutoModelForImageTextToText", "hermes", "infinipot_v", "rekv")
    assert found["hermes"].startswith("equal; under tensor parallelism")
    assert "processes keep different tokens: policy" in found["infinipot_v"]
    assert "queries of some heads only" in found["rekv"]


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
def test_other_families(family: str, tmp_path: Path) -> None:
    save_checkpoint(tiny(family), tmp_path / "model")
    found = split(tmp_path / "model", "AutoModelForImageTextToText", "full", "fifo", "hermes")
    assert all(text.startswith("equal") for text in found.values())


@pytest.mark.thorough
def test_text_decoders(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path / "model", "qwen3")
    assert split(folder, "AutoModelForCausalLM", "fifo", "hermes")["hermes"].startswith("equal")
