"""The command line. `main` is its only entry: nothing here imports torch before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hermes` (this project).

    Args:
        argv: arguments; those of the process by default.

    Returns:
        the exit code: 0 done, 1 failed inside, 2 bad input or settings, 130 interrupted.
    """
    _current_folder_last()
    from hermes.cli import light

    if argv is None and light.suits(sys.argv[1:]):
        return light.run(sys.argv[1:])
    from hermes.cli.app import run

    return run(list(sys.argv[1:] if argv is None else argv))


def _current_folder_last() -> None:
    """Search the current folder last, so that nothing in it hides a library that Hermes needs.

    `python -m` puts it first, a script leaves it out; a policy of the user's own is found in either case.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return
    sys.path[:] = [path for path in sys.path if path and os.path.realpath(path) != os.path.realpath(here)]
    sys.path.append(here)
