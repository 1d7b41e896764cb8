"""Shared fixtures: tiny random backbones, and the recorded cases of ``--oracle DIR``."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--oracle", type=Path, default=None, help="folder with recorded cases of the official release")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "oracle_case" not in metafunc.fixturenames:
        return
    folder: Path | None = metafunc.config.getoption("--oracle")
    if folder is None:
        metafunc.parametrize("oracle_case", [pytest.param(None, marks=pytest.mark.skip(reason="no --oracle folder"))], ids=["none"])
        return
    cases = sorted(path.parent for path in (folder / "cases").glob("*/meta.json"))
    if not cases:
        raise pytest.UsageError(f"--oracle {folder}: no cases/*/meta.json found")
    metafunc.parametrize("oracle_case", cases, ids=[case.name for case in cases])
