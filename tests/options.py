"""The options ``--oracle`` and ``--annotations``: a plugin of its own, so that pytest knows them in time.

In a conftest they would come too late: their folders would be taken for tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hermes  # noqa: F401  so that `policies/` is collected as `hermes.policies`


def pytest_addoption(parser: Any) -> None:
    """Register the options."""
    parser.addoption(
        "--oracle",
        type=Path,
        default=None,
        help="folder with recorded cases of the official HERMES release, for the parity tests",
    )
    parser.addoption(
        "--annotations",
        type=Path,
        default=None,
        help="folder with annotation files of benchmarks, for the tests that read them",
    )
