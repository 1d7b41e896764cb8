"""`hermes check`: hold a backbone to its contract."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from hermes.cli.arguments import split_settings
from hermes.cli.completion import complete_settings
from hermes.cli.output import out
from hermes.errors import InputError

_STYLES = {"kept": "green", "broken": "red", "skipped": "yellow"}


def check(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Such as backbone=FOLDER or backbone.family=my_module.MyFamily.",
            metavar="KEY=VALUE",
            autocompletion=complete_settings,
        ),
    ] = None,
) -> None:
    """Hold a backbone to its contract, clause by clause, on a few frames of noise.

    Pixels, prompt, positions and answers are compared with the model's own, chunks with the whole, attention
    and probe with plain attention; two sessions share the model, which must be left as it was found. What
    cannot be looked at here is skipped, and why. The exit code is 1 if a clause is broken.
    """
    words, overrides = split_settings(settings or [])
    if words:
        raise InputError(f"unexpected: {', '.join(map(repr, words))}; settings are key=value")
    from hermes.backbone import load_backbone
    from hermes.session.config import run_config
    from hermes.testing import examine_backbone

    findings = examine_backbone(load_backbone(run_config(overrides).backbone))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        name = finding.clause.replace("_", " ")
        table.add_row(Text(finding.outcome, _STYLES[finding.outcome]), name, Text(finding.why))
    out().print(table)
    if any(finding.outcome == "broken" for finding in findings):
        raise typer.Exit(1)
