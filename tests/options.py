"""The options ``--oracle`` and ``--annotations``, and one thread for torch.

It is a plugin of its own, so that pytest knows the options in time: in a conftest their folders would be
taken for tests.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hermes  # noqa: F401  so that `policies/` is collected as `hermes.policies`

# The tiny models are too small for more than one thread: with several, tests take ten times as long. It must
# be known before torch is imported, and to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


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
