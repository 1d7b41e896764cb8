"""The two streams: results on stdout, everything else on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.text import Text

# Of output that goes to a file or a pipe, which has no width of its own.
_WIDTH = 120
# Texts are data, in tables and titles, too: no markup and no emoji codes; styles are given apart.
_PLAIN: Mapping[str, Any] = MappingProxyType({"highlight": False, "markup": False, "emoji": False})


def out() -> Console:
    """The console of results: of today's stdout, also where that is redirected later."""
    return Console(file=sys.stdout, width=_width(sys.stdout.isatty()), **_PLAIN)


def err() -> Console:
    """The console of progress, warnings and errors."""
    return Console(stderr=True, width=_width(sys.stderr.isatty()), **_PLAIN)


def _width(terminal: bool) -> int | None:
    return None if terminal else _WIDTH


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
