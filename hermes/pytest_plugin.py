"""The ``--oracle`` and ``--annotations`` options of pytest, known before any conftest is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Register the options: a conftest would be too late, their folders would be taken for tests.

    Source: this project.
    """
    parser.addoption(
        "--oracle",
        type=Path,
        default=None,
        help="folder with recorded cases of the official HERMES release, for Hermes' own parity tests",
    )
    parser.addoption(
        "--annotations",
        type=Path,
        default=None,
        help="folder with annotation files of benchmarks, for Hermes' own tests of reading them",
    )
