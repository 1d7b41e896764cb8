"""The application: commands from the entry-point group `hermes.commands`, and exit codes."""

from __future__ import annotations

import inspect
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from hermes.cli.arguments import as_setting, spread_choices
from hermes.cli.output import log_on_stderr, note, out
from hermes.errors import HermesError, InputError, SettingError
from hermes.pages.text import clean
from hermes.registry import registry
from hermes.version import __version__

_DEBUG = "--debug"
# Columns of a terminal in which help has boxes.
_BOXES = 60


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        code, error = outcome(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        return nobody_reads()
    return code if error is None else report(error, debug=_DEBUG in argv, argv=argv)


def outcome(argv: Sequence[str]) -> tuple[int, Exception | None]:
    """Run one command line: its exit code, or the error that is still to be reported."""
    arguments = [word for word in argv if word != _DEBUG]
    try:
        arguments = spread_choices(arguments)
        with log_on_stderr():
            code = _app(arguments)(arguments, prog_name="hermes", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        raise
    except Exception as error:
        return 1, error
    if code == 130:
        note("interrupted", _after_interruption(arguments))
    return code if isinstance(code, int) else 0, None


def _after_interruption(arguments: Sequence[str]) -> str:
    """What is kept of a command that was stopped, and how to go on with it."""
    commands = registry("command")
    name = arguments[0] if arguments else ""
    kept = getattr(commands.get(name), "keeps", "") if name in commands.names() else ""
    return f"{kept} To go on: {shlex.join(['hermes', *arguments])}" if kept else "stopped before the end"


def nobody_reads() -> int:
    """The exit code where the reader has gone, as with `| head`: nothing is left to say, also at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def report(error: Exception, debug: bool = False, argv: Sequence[str] = ()) -> int:
    """Say on stderr what went wrong and return the exit code."""
    if debug:
        sys.stderr.write(clean("".join(traceback.format_exception(error))))
    if isinstance(error, InputError):
        note("error", str(error))
        return 2
    # The machine's: a disk, a folder, a permission. What writes to the user's files says more itself.
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        note("error", f"{where}{error.strerror}. Mend it and do the same again: what was finished is kept.")
        return 2
    # Typer's own errors, whose class has moved between its versions.
    if hasattr(error, "format_message"):
        if message := error.format_message():  # none where a bare `hermes` has printed its help
            note("error", f"{message.rstrip('.')}. {_advice(error, argv)}")
        return 2
    if isinstance(error, HermesError):
        note("error", str(error))
    else:
        again = "" if debug else " This is a fault of Hermes, a plug-in or the model: --debug shows where."
        note("error", f"{type(error).__name__}: {str(error).rstrip('.')}.{again}")
    return 1


def _advice(error: Exception, argv: Sequence[str]) -> str:
    """What to write instead of a command line that cannot be read."""
    option = getattr(error, "option_name", None)
    if isinstance(option, str):
        if meant := as_setting(option, argv):
            return f"Settings are written without dashes: {shlex.quote(meant)}."
        if not option.startswith("--"):
            return "A name that begins with a dash is written ./-NAME, and anything else after '--'."
    return "See 'hermes --help' and 'hermes COMMAND --help'."


def _app(argv: Sequence[str]) -> typer.Typer:
    columns = shutil.get_terminal_size().columns
    app = typer.Typer(
        name="hermes",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        # Boxes in a narrow terminal would cut the names of options.
        rich_markup_mode="rich" if columns >= _BOXES else None,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "terminal_width": columns if columns < _BOXES else None,
        },
    )
    app.callback()(_hermes)
    commands = registry("command")
    names = commands.names()
    # A command that is named needs no other to be imported.
    for name in argv[:1] if argv and argv[0] in names else names:
        try:
            command: Callable[..., Any] = commands.get(name)
        except SettingError as error:
            command = _broken(error)
        # As it is read without boxes, a paragraph that keeps its lines begins after an empty one.
        help = inspect.getdoc(command) or ""
        app.command(name, help=help if columns >= _BOXES else help.replace("\n\b\n", "\n\n\b\n"))(command)
    return app


def _broken(error: SettingError) -> Callable[[], None]:
    """A command whose package cannot be imported says so, and leaves the others usable."""

    def command() -> None:
        raise error

    command.__doc__ = f"Cannot be used: {error}".replace("[", "\\[")
    return command


def _version(wanted: bool) -> bool:
    if wanted:
        out().print(f"hermes {__version__}")
        raise typer.Exit
    return wanted


def _hermes(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show where an error came from.")] = False,
) -> None:
    """Watch a video with a language model, keep its memory within a fixed budget, ask at any time."""
