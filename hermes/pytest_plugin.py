"""The ``--oracle DIR`` option of pytest, known before any conftest is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Register ``--oracle``: a conftest would be too late, as pytest takes the folder for a test path then."""
    parser.addoption(
        "--oracle",
        type=Path,
        default=None,
        help="folder with recorded cases of the official HERMES release, for Hermes' own parity tests",
    )
