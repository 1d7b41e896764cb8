"""Hashes of the shipped settings, as they were when runs were first kept by them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from hermes.analysis.settings import investigate_config
from hermes.bench.stream import bench_identity
from hermes.config import available, config_hash
from hermes.errors import InputError
from hermes.evaluation.running.settings import eval_config, settings_hash
from hermes.evaluation.sweeps.cells import cells_of
from hermes.registry import registry
from hermes.session.config import run_config

GOLDEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden_hashes.json").read_text())
# Benchmarks of files need them named; what they hold is not read.
FILES = ["data.annotations=FILE", "data.videos=FOLDER"]
pytestmark = pytest.mark.slow

INVESTIGATIONS = ("fig2", "fig2_embedded", "fig6", "fig6_embedded", "causal_embedded")


def _with_files_if_needed(hashed: Any, settings: list[str]) -> Any:
    try:
        return hashed(settings)
    except InputError:
        return hashed([*settings, *FILES])


def _of_run(settings: list[str]) -> str:
    return config_hash(run_config(settings))


def _of_evaluation(settings: list[str]) -> str:
    return settings_hash(eval_config(settings))


def _of_sweep(settings: list[str]) -> list[Any]:
    try:
        cells = cells_of(settings)
    except InputError:
        cells = cells_of(settings, identify=bench_identity)
    return [len(cells), hashlib.sha256("".join(cell.hash for cell in cells).encode()).hexdigest()[:16]]


def _of_investigation(settings: list[str]) -> str:
    return config_hash(investigate_config(settings))


@pytest.mark.parametrize("kind", ["policy", "backbone"])
def test_settings_of_a_run(kind: str) -> None:
    names = {*available(kind), *registry(kind).names()}
    assert set(GOLDEN[kind]) <= names
    assert {name: _of_run([f"{kind}={name}"]) for name in GOLDEN[kind]} == GOLDEN[kind]


def test_settings_of_an_evaluation() -> None:
    hashes = {name: _with_files_if_needed(_of_evaluation, [f"data={name}"]) for name in GOLDEN["data"]}
    assert hashes == GOLDEN["data"]


@pytest.mark.parametrize(
    "name",
    [
        # Hundreds of cells each, made of policies and settings that the others have too.
        pytest.param(name, marks=pytest.mark.thorough if name.startswith("rivals") else ())
        for name in GOLDEN["experiment"]
    ],
)
def test_settings_of_an_experiment(name: str) -> None:
    hashed = _of_investigation if name in INVESTIGATIONS else _of_sweep
    assert _with_files_if_needed(hashed, [f"experiment={name}"]) == GOLDEN["experiment"][name]
