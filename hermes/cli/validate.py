"""`hermes validate`: whether settings, and the files of a benchmark, are right."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from hermes.cli.arguments import split_settings
from hermes.cli.completion import complete_settings
from hermes.cli.output import err
from hermes.config import config_hash, resolved_yaml
from hermes.errors import InputError
from hermes.pages.text import clean

if TYPE_CHECKING:
    from hermes.data.benchmark import Survey

# Of each kind of fault.
_SHOWN = 10


def validate(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="As for hermes ask and hermes eval.", metavar="KEY=VALUE", autocompletion=complete_settings
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List every fault, not only the first few.")
    ] = False,
) -> None:
    """Check settings and print all of them as YAML; no model is loaded.

    With a benchmark (data=NAME data.annotations=FILE data.videos=FOLDER) also read it whole: how many videos
    and questions there are, missing videos, bad times, answers that are no option, what comes twice. The exit
    code is then 1 if anything is wrong.
    """
    words, overrides = split_settings(settings or [])
    if words:
        raise InputError(f"unexpected: {', '.join(map(repr, words))}; settings are key=value")
    if any(text.partition("=")[0].partition(".")[0] == "data" for text in overrides):
        from hermes.evaluation.running.settings import eval_config

        config = eval_config(overrides)
        columns = (TextColumn("videos"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=err(), transient=True) as bar:
            task = bar.add_task("", total=None)
            found = config.data.survey(lambda done, total: bar.update(task, completed=done, total=total))
        _write(config)
        # As comments, so that the whole can still be read as YAML.
        sys.stdout.write("".join(f"# {clean(line)}\n" for line in _findings(found, everything)))
        if found.problems:
            raise typer.Exit(1)
        return
    from hermes.session.config import run_config

    _write(run_config(overrides))


def _write(config: object) -> None:
    sys.stdout.write(f"# config_hash: {config_hash(config)}\n{resolved_yaml(config)}")


def _findings(found: Survey, everything: bool) -> Sequence[str]:
    parts = f" in {found.clips} parts" if found.clips > found.videos else ""
    left = f", {found.questions - found.asked} of which cannot be asked" * (found.asked < found.questions)
    lines = [f"{found.videos} videos{parts}, {found.questions} questions{left}", *found.notes]
    by_kind: dict[str, list[str]] = {}
    for problem in found.problems:
        # One line, also where a text of the file has several.
        text = " ".join(f"{problem.where}: {problem.what}".split())
        by_kind.setdefault(problem.kind, []).append(f"  {text}")
    for kind, texts in by_kind.items():
        shown = texts if everything else texts[:_SHOWN]
        rest = len(texts) - len(shown)
        lines += [f"{kind} ({len(texts)}):", *shown, *([f"  and {rest} more: --all"] if rest else [])]
    return lines if found.problems else [*lines, "nothing is wrong"]
