"""The ``--oracle DIR`` option of pytest, known before any conftest is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Register ``--oracle``: a conftest would be too late, the folder would be taken for a test.

    Source: this project.
    """
    parser.addoption(
        "--oracle",
        type=Path,
        default=None,
        help="folder with recorded cases of the official HERMES release, for Hermes' own parity tests",
    )
