"""`hermes judge`: the open-ended answers of a run judged, without the model that gave them."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from hermes.cli.arguments import split_settings
from hermes.cli.completion import complete_settings
from hermes.cli.eval import show_summary
from hermes.cli.output import keeps, out
from hermes.cli.progress import Bars
from hermes.errors import InputError
from hermes.files import json_line


@keeps("Every verdict that was given is kept.")
def judge(
    run: Annotated[Path, typer.Argument(help="Folder of a run of hermes eval.", metavar="RUN")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="judge=openai judge.model=NAME judge.base_url=URL, ...",
            metavar="KEY=VALUE",
            autocompletion=complete_settings,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask about every answer anew, also those that have a verdict.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Keep what the same judge said under another version of Hermes.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary as one JSON object on stdout, and nothing else.")
    ] = False,
) -> None:
    """Judge the open-ended answers of a run, finished or not; the model that gave them is not loaded.

    Each verdict is in RUN/judged.jsonl as it comes: the same command asks only what is missing. Another judge
    takes the place of the first in the rows; the verdicts of both stay in that file.

    Examples:
    \b
    hermes judge RUN judge=openai judge.model=gpt-5-mini judge.temperature=null
    hermes judge RUN judge=openai judge.model=NAME judge.base_url=URL
    hermes judge RUN judge=words

    All settings with their values: hermes show openai, hermes show words.
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    words, given = split_settings(settings or [])
    if words:
        raise InputError(f"{words[0]!r} is no setting; needed: key=value, such as judge=words")
    from hermes.evaluation.judging.judge import judge_config
    from hermes.evaluation.judging.judge_run import judge_run

    judge = judge_config(given)
    with redirect_stdout(sys.stderr), Bars() as bars:
        found = judge_run(run, judge, again=again, anyway=anyway, watcher=bars.watcher("judged"))
    if not found.verdicts.n:
        raise InputError(
            f'{run}: no open-ended answer to judge; in annotations of your own, "open_ended": true marks them'
        )
    if as_json:
        out().file.write(json_line({"output": str(run), **found.record()}))
        return
    show_summary(found, run)
