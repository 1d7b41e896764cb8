"""Module names that were documented before the rooms, and the plug-in folders under their former names."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from hermes.forwarding import MOVED, PLUGINS, RENAMED, current_place, shipped, stored_module
from hermes.policies.fifo import Fifo

# Former place -> where it is now.
PLACES = {
    "hermes.archive.Archiving": "hermes.policy.archiving.Archiving",
    "hermes.attention.Scope": "hermes.memory.scope.Scope",
    "hermes.backbone.Chunk": "hermes.tokens.chunk.Chunk",
    "hermes.batch.BatchedSession": "hermes.session.lockstep.BatchedSession",
    "hermes.benchmark.bench_config": "hermes.bench.stream.bench_config",
    "hermes.benchmark.frames_of": "hermes.bench.records.frames_of",
    "hermes.blocks.same_blocks": "hermes.decoding.layerwise.same_blocks",
    "hermes.buffering.Buffering": "hermes.policy.embedded_frames.Buffering",
    "hermes.chat.split_template": "hermes.dialogue.template.split_template",
    "hermes.config.specs.config_hash": "hermes.config.exporting.config_hash",
    "hermes.data.wanderer.files.Wanderer": "hermes.data.wanderer.benchmark.Wanderer",
    "hermes.evaluation.rows.Row": "hermes.evaluation.results.rows.AnswerRow",
    "hermes.evaluation.settings.eval_config": "hermes.evaluation.running.settings.eval_config",
    "hermes.evaluation.statistics.clustered": "hermes.evaluation.scoring.statistics.clustered",
    "hermes.evaluation.sweep.cells_of": "hermes.evaluation.sweeps.cells.cells_of",
    "hermes.evaluation.sweep.run_cells": "hermes.evaluation.sweeps.running.run_cells",
    "hermes.evaluation.tables.write_sweep": "hermes.evaluation.reports.sweep_page.write_sweep",
    "hermes.generation.GenerationConfig": "hermes.decoding.generation.GenerationConfig",
    "hermes.layer.LayerUpdate": "hermes.memory.updates.LayerUpdate",
    "hermes.loading.load_checkpoint": "hermes.backbone.checkpoint.load_checkpoint",
    "hermes.memory_map.held_frames": "hermes.session.memory_map.held_frames",
    "hermes.observe.Guidance": "hermes.attention.guidance.Guidance",
    "hermes.parts.observed.AttentionSum": "hermes.parts.received_attention.AttentionSum",
    "hermes.positions.Rotary": "hermes.tokens.positions.Rotary",
    "hermes.prefill.prefill": "hermes.decoding.prefill.prefill",
    "hermes.provenance.Kind": "hermes.tokens.provenance.TokenKind",
    "hermes.run.open_session": "hermes.session.opening.open_session",
    "hermes.selfcheck.self_check": "hermes.backbone.self_check.self_check",
    "hermes.settings.run_config": "hermes.session.config.run_config",
    "hermes.storage.load_record": "hermes.memory.storage.load_record",
    "hermes.tape.Graphed": "hermes.decoding.recording.CudaGraph",
    "hermes.tiers.TieredPolicy": "hermes.policy.tiers.TieredPolicy",
    "hermes.trainers.quiet_lightning": "hermes.machine.lightning.quiet_lightning",
}


@pytest.mark.parametrize("old", PLACES)
def test_a_moved_name_is_handed_on_with_its_new_place(old: str) -> None:
    module, _, name = old.rpartition(".")
    place, _, now = PLACES[old].rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{old} is now {PLACES[old]}".replace(".", r"\.")) as caught:
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(place), now)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("old", MOVED)
def test_every_place_is_there(old: str) -> None:
    for place in MOVED[old].split():
        importlib.import_module(f"hermes.{place}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.import_module(f"hermes.{old}")


def test_every_new_name_is_there() -> None:
    places = {place for places in MOVED.values() for place in places.split()}
    names = {name for place in places for name in vars(importlib.import_module(f"hermes.{place}"))}
    assert {now for names in RENAMED.values() for now in names.split()} <= names


def test_a_name_that_never_was_is_missing() -> None:
    with pytest.raises(ImportError, match="nothing"):
        from hermes.tiers import nothing  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"hermes\.nothing"):
        importlib.import_module("hermes.nothing")


@pytest.mark.parametrize(
    "cls", ["hermes.policy.policy.MemoryPolicy", "hermes.policy.retrieval.FrameRetrieval"]
)
def test_what_is_written_down_is_found_again(cls: str) -> None:
    module, _, name = cls.rpartition(".")
    stored = stored_module(module)
    assert stored != module
    assert current_place(stored, name) == (module, name)


@pytest.mark.parametrize("folder", PLUGINS)
def test_a_plugin_folder_is_one_package_by_either_name(folder: str) -> None:
    package = importlib.import_module(folder)
    assert package is importlib.import_module(f"hermes.{folder}")
    assert package.__name__ == package.__spec__.name == f"hermes.{folder}"
    for found in pkgutil.walk_packages(package.__path__, f"{folder}."):
        module = importlib.import_module(found.name)
        assert module is importlib.import_module(f"hermes.{found.name}")
        assert module.__name__ == module.__spec__.name == f"hermes.{found.name}"


def test_a_plugin_folder_lacks_what_it_lacks() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"policies\.mine"):
        importlib.import_module("policies.mine")
    with pytest.raises(ModuleNotFoundError, match=r"policies\.fifo"):
        importlib.import_module("policies.fifo.mine")


def test_a_plugin_is_pickled_and_reloaded() -> None:
    assert pickle.loads(pickle.dumps(Fifo)) is Fifo
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_module_of, Fifo).result() == "hermes.policies.fifo"
    module = importlib.import_module("policies.fifo")
    before = vars(module).copy()
    try:
        assert importlib.reload(module) is module
        assert module.Fifo.__module__ == "hermes.policies.fifo"
    finally:
        vars(module).update(before)


def _module_of(cls: type) -> str:
    return cls.__module__


@pytest.mark.parametrize("first", ["import hermes", "import policies.fifo"])
def test_a_checkout_on_the_path_makes_no_second_copy(first: str, tmp_path: Path) -> None:
    if (shipped("policies").parent / "__init__.py").exists():
        pytest.skip("installed: the folders are inside the package")
    code = f"{first}; import sys, policies.fifo, hermes.policies.fifo; assert policies is hermes.policies; "
    code += "assert policies.fifo is hermes.policies.fifo is sys.modules['policies.fifo']"
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(shipped('policies').parent)!r}); {code}",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
