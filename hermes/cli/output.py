"""The two streams: results on stdout, everything else on stderr; and what a terminal may be shown."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from hermes.pages.text import clean

# Of output that goes to a file or a pipe, which has no width of its own.
_WIDTH = 120
# Texts are data, in tables and titles, too: no markup and no emoji codes; styles are given apart.
_PLAIN: Mapping[str, Any] = MappingProxyType({"highlight": False, "markup": False, "emoji": False})
_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`|``([^`]+)``")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def prose(text: str) -> str:
    """A docstring as a terminal shows it, without the marks of its mark-up.

    >>> prose("See :func:`hermes.config.build`, or ``None``.")
    'See hermes.config.build, or None.'
    """
    return _ROLE.sub(lambda match: match[1] or match[2], text)


class _Console(Console):
    """Prints nothing that the terminal would obey; JSON is written past it, as it is."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


def out() -> Console:
    """The console of results: of today's stdout, also where that is redirected later."""
    return _Console(file=sys.stdout, width=_width(sys.stdout.isatty()), **_PLAIN)


def err() -> Console:
    """The console of progress, warnings and errors."""
    return _Console(stderr=True, width=_width(sys.stderr.isatty()), **_PLAIN)


def _width(terminal: bool) -> int | None:
    return None if terminal else _WIDTH


def note(label: str, message: str, style: str = "bold red") -> None:
    """One paragraph on stderr; the terminal wraps it."""
    text = Text.assemble((f"{label}: ", style), " ".join(message.split()))
    err().print(text, soft_wrap=True)


def keeps(what: str) -> Callable[[_Command], _Command]:
    """Say of a command that takes long what is kept of it where it is interrupted.

    Args:
        what: a sentence, which is shown with the command line to go on with.
    """

    def mark(command: _Command) -> _Command:
        vars(command)["keeps"] = what
        return command

    return mark


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
