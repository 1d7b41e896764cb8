"""Shared fixtures: tiny random backbones, and what ``--oracle DIR`` and ``--annotations DIR`` hold."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from jaxtyping import install_import_hook

import tests.support.typechecked  # noqa: F401  the hook finds it by name

# Before anything of ours is imported: every annotated shape is checked as the tests run.
install_import_hook(["hermes"], "tests.support.typechecked.check")

if not torch.cuda.is_available():
    # Before Triton is imported by anything: its kernels run in its interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a shell; some tests send Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from hermes.backbone import Backbone


@pytest.fixture(autouse=True)
def own_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test serves is on this machine, whatever proxy there is."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "oracle_case" not in metafunc.fixturenames:
        return
    folder: Path | None = metafunc.config.getoption("--oracle")
    if folder is None:
        metafunc.parametrize(
            "oracle_case",
            [pytest.param(None, marks=pytest.mark.skip(reason="no --oracle folder"))],
            ids=["none"],
        )
        return
    cases = sorted(path.parent for path in (folder / "cases").glob("*/meta.json"))
    if not cases:
        raise pytest.UsageError(f"--oracle {folder}: no cases/*/meta.json found")
    metafunc.parametrize("oracle_case", cases, ids=[case.name for case in cases])


class _OracleModels(dict[str, "Backbone"]):
    """Recorded models by name, loaded at first use; ``X_Y`` is folder X with ``config_Y.json``."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        super().__init__()
        self.folder, self.scratch = folder / "models", scratch

    def __missing__(self, name: str) -> Backbone:
        from hermes.backbone import BackboneConfig, load_backbone

        source = self.folder / name
        if not source.is_dir():
            base, _, suffix = name.rpartition("_")
            source = self.scratch / name
            # What is recorded may be read-only, which a plain copy would be, too.
            shutil.copytree(self.folder / base, source, copy_function=shutil.copyfile)
            source.chmod(0o755)
            shutil.copyfile(self.folder / base / f"config_{suffix}.json", source / "config.json")
        self[name] = load_backbone(BackboneConfig(checkpoint=str(source), device="cpu"))
        return self[name]


@pytest.fixture(scope="session")
def annotations(request: pytest.FixtureRequest) -> Path:
    """The folder of ``--annotations``."""
    folder: Path | None = request.config.getoption("--annotations")
    if folder is None:
        pytest.skip("no --annotations folder")
    return folder


@pytest.fixture(scope="session")
def oracle(request: pytest.FixtureRequest) -> Path:
    """The folder of ``--oracle``."""
    folder: Path | None = request.config.getoption("--oracle")
    if folder is None:
        pytest.skip("no --oracle folder")
    return folder


@pytest.fixture(scope="session")
def oracle_backbones(oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Backbone]:
    return _OracleModels(oracle, tmp_path_factory.mktemp("oracle_models"))
