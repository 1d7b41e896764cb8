"""`hermes eval`: a benchmark asked from start to end, with an interval for every accuracy."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hermes.cli.arguments import split_settings
from hermes.cli.output import err, out
from hermes.errors import InputError

if TYPE_CHECKING:
    from hermes.evaluation import Score, Summary


def eval_(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings: data=wanderer, policy=fifo, policy.budget=64, ...", metavar="KEY=VALUE"
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary as one JSON object on stdout, and nothing else.")
    ] = False,
) -> None:
    """Ask every question of a benchmark and print accuracies, overall and by kind, with 95 % intervals.

    Every question sees only the frames before its time. One row a question goes to output=FOLDER as it is
    answered; a run that was stopped goes on where it was when the same command is given again.

    Examples:
    \b
    hermes eval                                     the embedded model on 100 streams of Wanderer
    hermes eval policy=fifo policy.budget=64 data.world.length=64
    hermes eval data.choices=1 data.world.length=128 --json
    hermes eval data=annotations data.annotations=FILE.json data.videos=FOLDER backbone=llava_onevision_7b

    All settings with their values: hermes show wanderer, hermes show annotations, hermes validate.
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    words, given = split_settings(settings or [])
    if words:
        raise InputError(f"{words[0]!r} is no setting; needed: key=value, such as policy=fifo")
    from hermes.evaluation import default_folder, eval_config, evaluate, is_worker
    from hermes.trainers import quiet_lightning

    config = eval_config(given)
    folder = config.output or default_folder(config)
    columns = (TextColumn("videos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # With --json nothing but the summary reaches stdout, whatever a plug-in prints.
    shown = not is_worker()
    bars = Progress(*columns, console=err(), transient=True, disable=not shown)
    with redirect_stdout(sys.stderr), quiet_lightning(), bars as bar:
        task = bar.add_task("", total=len(config.data))
        found = evaluate(
            config, folder, watcher=lambda done, total: bar.update(task, completed=done, total=total)
        )
    if not shown:
        return
    if as_json:
        out().file.write(json.dumps({"output": str(folder), **found.record()}) + "\n")
        return
    _show(found)
    out().print(f"rows and manifest: {folder}", soft_wrap=True)


def _show(found: Summary) -> None:
    tables = [("by category", found.by_category), ("by kind", found.by_kind)]
    if set(found.by_category) == set(found.by_kind):
        tables.pop(0)
    for title, scores in tables:
        out().print(_table(title, {**scores, "all": found.overall} if title == tables[-1][0] else scores))
        out().print()
    if found.by_age:
        named = {
            f"{name}, {age} s": score for name, ages in found.by_age.items() for age, score in ages.items()
        }
        out().print(_table("by age of the evidence", named))
        out().print()
    aged = [score for ages in found.by_age.values() for score in ages.values()]
    shown = [found.overall, *found.by_category.values(), *found.by_kind.values(), *aged]
    if any(score.method == "clustered" for score in shown):
        out().print("intervals are clustered by video where a video has several questions", style="dim")
    if any(score.span.endswith("*") for score in shown):
        out().print("* few videos: the interval may be too narrow", style="dim")
    if found.unscored:
        out().print(f"{found.unscored} questions have no answer in the benchmark and are not scored")


def _table(title: str, scores: Mapping[str, Score]) -> Table:
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.title_justify, table.title_style, table.header_style = "left", "bold", "dim"
    table.add_column("")
    for name in ("n", "right %", "95 % interval", "chance %"):
        table.add_column(name, justify="right")
    for name, score in scores.items():
        chance = "-" if score.chance is None else f"{100 * score.chance:.0f}"
        table.add_row(name, str(score.n), f"{100 * score.accuracy:.1f}", score.span, chance)
    return table
