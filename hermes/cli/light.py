"""Light commands: those that only read settings, classes and files answer without torch.

They run beside stand-ins for the heavy packages (`hermes.cli.stand_ins`) and print once they are done. If
anything turned out to need a real package, or to fail in a way in which the real ones might not, nothing has
been printed: the same command line then starts anew in the place of this process, without stand-ins. So a
light run is a faster way to the same text.

Only `hermes` as a command of its own is ever light, never `hermes.cli.main([...])` of another program: the
stand-ins stay in `sys.modules` until the process ends.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn, TextIO

__all__ = ["run", "suits"]

_COMMANDS = ("list", "show", "validate")
_INFORMING = ((), ("--help",), ("-h",), ("--version",))
# Set for the process that runs a command line for the second time.
_IN_FULL = "_HERMES_IN_FULL"
_COMPLETING = "_HERMES_COMPLETE"


def suits(argv: Sequence[str]) -> bool:
    """Whether this process is a `hermes` of its own whose command line can be tried without torch."""
    if os.environ.pop(_IN_FULL, None) or os.name != "posix" or "--debug" in argv:
        return False
    own = Path(sys.argv[0]).name == "hermes" or Path(sys.argv[0]).parts[-2:] == ("hermes", "__main__.py")
    if not own or not sys.executable or None in (sys.stdout, sys.stderr):
        return False
    # What can be read only once, such as <(zcat FILE).
    if any(Path(word.partition("=")[2]).is_fifo() for word in argv):
        return False
    informs = tuple(argv) in _INFORMING or tuple(argv[1:]) == ("--help",) or _COMPLETING in os.environ
    return informs or argv[0] in _COMMANDS


def run(argv: list[str]) -> int:
    """Run a command line that suits and return its exit code, or start it anew in full."""
    from hermes.cli import stand_ins
    from hermes.cli.app import nobody_reads, outcome, report
    from hermes.errors import HermesError
    from hermes.registry import failures

    said: list[tuple[TextIO, str]] = []
    try:
        stand_ins.install()
        with redirect_stdout(_Held(sys.stdout, said)), redirect_stderr(_Held(sys.stderr, said)):
            code, error = outcome(argv)
            final = error is None or isinstance(error, HermesError) or hasattr(error, "format_message")
            if error is not None and final:
                code = report(error, argv=argv)
    except SystemExit as ended:
        # As a shell's completion ends.
        final = isinstance(ended.code, int)
        code = ended.code if isinstance(ended.code, int) else 1
    except (Exception, stand_ins.NeedsRealPackageError):
        final = False
    if not final or stand_ins.refusals or failures or not _printable(said):
        _in_full()
    try:
        for stream, text in said:
            stream.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        return nobody_reads()
    return code


class _Held(io.StringIO):
    """A stream whose text is kept, in the order of all that is said; it looks like the real one."""

    def __init__(self, stream: TextIO, said: list[tuple[TextIO, str]]) -> None:
        super().__init__()
        self.stream, self.said = stream, said

    def write(self, text: str) -> int:
        count = super().write(text)
        self.said.append((self.stream, text))
        return count

    def isatty(self) -> bool:
        return self.stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding


def _printable(said: Sequence[tuple[TextIO, str]]) -> bool:
    """Whether all of it can be printed: a stream that cannot is found out while the command runs."""
    try:
        for stream, text in said:
            text.encode(stream.encoding, stream.errors or "strict")
    except UnicodeEncodeError:
        return False
    return True


def _in_full() -> NoReturn:
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, {**os.environ, _IN_FULL: "1"})
