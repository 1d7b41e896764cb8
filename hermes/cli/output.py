"""The two streams: results on stdout, everything else on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.text import Text

# Of output that goes to a file or a pipe, which has no width of its own.
_WIDTH = 120


def out() -> Console:
    """The console of results: of today's stdout, also where that is redirected later."""
    return _console(sys.stdout)


def err() -> Console:
    """The console of progress, warnings and errors."""
    return _console(sys.stderr)


def _console(file: TextIO) -> Console:
    # Texts are data, in tables and titles, too: no markup, no emoji codes; styles are given apart.
    width = None if file.isatty() else _WIDTH
    return Console(file=file, highlight=False, markup=False, emoji=False, width=width)


def note(label: str, message: str, style: str = "bold red") -> None:
    """One paragraph on stderr; the terminal wraps it."""
    text = Text.assemble((f"{label}: ", style), " ".join(message.split()))
    err().print(text, soft_wrap=True)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.levelname.lower(), record.getMessage(), "bold yellow")


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Show the package's own warnings on stderr, in the form of its errors."""
    logger, handler = logging.getLogger("hermes"), _Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
