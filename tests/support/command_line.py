"""Running command lines in tests."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from hermes.cli import main

BUDGET = 64
FAST = ("backbone=tiny_llava_onevision", f"policy.budget={BUDGET}", "generation.max_new_tokens=4")


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def hermes(*argv: str) -> Result:
    """Run a command line in this process."""
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
    finally:
        sys.path[:] = path
    return Result(code, out.getvalue(), err.getvalue())


def process(
    *argv: str, cwd: Path, timeout: float = 120, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own, in the user's folder."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", **variables}
    return subprocess.run(
        argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


def write(path: Path, text: str) -> Path:
    """A file with this text; its folder is made."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path
