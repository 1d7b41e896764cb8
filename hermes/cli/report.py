"""`hermes report`: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hermes.cli.output import out


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run of hermes eval.", metavar="RUN")],
) -> None:
    """Write RUN/report.md: accuracies with intervals, tables, plots, and what the run was made with.

    A run that is not finished is reported as far as it is; the same command again writes the page anew.

    Examples:
    \b
    hermes report runs/eval/wanderer-hermes-64-5e6f7a8b
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    from hermes.evaluation.reports.run_page import write_report

    out().print(str(write_report(run)), soft_wrap=True)
