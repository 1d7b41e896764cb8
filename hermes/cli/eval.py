"""`hermes eval`: a benchmark asked from start to end, with an interval for every accuracy."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hermes.cli.arguments import split_settings
from hermes.cli.completion import complete_settings
from hermes.cli.output import keeps, note, out
from hermes.cli.progress import Bars
from hermes.errors import InputError
from hermes.files import json_line

if TYPE_CHECKING:
    from hermes.evaluation.scoring.summary import Score, Summary
    from hermes.evaluation.scoring.verdicts import MeanScore


# What the end of a run shows of its costs; the page has the others.
_COSTS = ("ttft", "lag", "memory", "archive")


@keeps("Every question that was answered is kept.")
def eval_(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings: data=wanderer, policy=fifo, policy.budget=64, ...",
            metavar="KEY=VALUE",
            autocompletion=complete_settings,
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Go on with a run that other settings, weights or versions began; the record says so.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary as one JSON object on stdout, and nothing else.")
    ] = False,
) -> None:
    """Ask every question of a benchmark and print accuracies, overall and by kind, with 95 % intervals.

    Every question sees only the frames before its time. One row a question goes to output=FOLDER as it is
    answered; a run that was stopped goes on where it was when the same command is given again. A video that
    cannot be read costs its own questions alone; it is named at the end, and the exit code is then 2.

    Examples:
    \b
    hermes eval            the embedded model on 100 streams of Wanderer
    hermes eval policy=fifo policy.budget=64 data.world.length=64
    hermes eval data.choices=1 data.world.length=128 --json
    hermes eval data=annotations data.annotations=FILE data.videos=FOLDER
    hermes eval data=rvs_ego data.annotations=FILE judge=openai judge.model=NAME

    All settings with their values: hermes show wanderer, hermes show annotations, hermes validate.
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    words, given = split_settings(settings or [])
    if words:
        raise InputError(f"{words[0]!r} is no setting; needed: key=value, such as policy=fifo")
    from hermes.evaluation.results.run_folder import read_manifest
    from hermes.evaluation.running.run import evaluate, is_worker
    from hermes.evaluation.running.settings import default_folder, eval_config
    from hermes.machine.lightning import quiet_lightning

    config = eval_config(given)
    folder = config.output or default_folder(config)
    # With --json nothing but the summary reaches stdout, whatever a plug-in prints.
    shown = not is_worker()
    with redirect_stdout(sys.stderr), quiet_lightning(), Bars(shown=shown) as bars:
        found = evaluate(
            config,
            folder,
            watcher=bars.watcher("questions"),
            judging=bars.watcher("judged"),
            anyway=anyway,
        )
    if not shown:
        return
    mixed = read_manifest(folder).get("mixed", [])
    if as_json:
        told = {"output": str(folder), **found.record(), **({"mixed": mixed} if mixed else {})}
        out().file.write(json_line(told))
    else:
        show_summary(found, folder)
        if mixed:
            out().print("The run went on with what had not made it; report.md and manifest.json say in what.")
        _show_next(folder)
    for text in found.faults:
        note("broken", text)
    if found.broken:
        raise typer.Exit(2)


def show_summary(found: Summary, folder: Path) -> None:
    """Print a run's tables, and what they leave out and why."""
    if found.overall.n:
        _show_scores(found)
    _show_costs(found)
    if found.verdicts.scores:
        out().print(_means(found.verdicts.scores))
        out().print()
    if found.unscored:
        out().print(f"{found.unscored} questions have no answer in the benchmark and are not scored")
    for text in found.verdicts.notes(f"hermes judge {shlex.quote(str(folder))}"):
        out().print(text, soft_wrap=True)


def _show_next(folder: Path) -> None:
    """What can be done with a run: its page, and a comparison with another."""
    named = shlex.quote(str(folder))
    out().print(f"rows and manifest: {folder}", soft_wrap=True)
    out().print(f"next: hermes report {named}", soft_wrap=True)
    out().print(f"      hermes compare OTHER_RUN {named}", soft_wrap=True)


def _show_costs(found: Summary) -> None:
    from hermes.evaluation.scoring.measures import MEASURES

    table = _columns("costs at the questions", "median", "95 %")
    for name in _COSTS:
        if name in found.costs:
            cost = found.costs[name]
            table.add_row(MEASURES[name][0], f"{cost.median:.4g}", f"{cost.high:.4g}")
    if table.row_count:
        out().print(table)
        out().print()


def _show_scores(found: Summary) -> None:
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
    if found.averages:
        out().print(_averages(found))
        out().print()
    if found.by_delay:
        out().print(_delays(found))
        out().print()
    aged = [score for ages in found.by_age.values() for score in ages.values()]
    shown = [found.overall, *found.by_category.values(), *found.by_kind.values(), *aged]
    if any(score.method == "clustered" for score in shown):
        out().print("intervals are clustered by video where a video has several questions", style="dim")
    losses = [loss for parts in found.by_delay.values() for loss in parts.values()]
    if any(score.span.endswith("*") for score in shown) or any(loss.change.doubtful for loss in losses):
        out().print("* few videos: the interval may be too narrow", style="dim")


def _table(title: str, scores: Mapping[str, Score]) -> Table:
    table = _columns(title, "n", "right %", "95 % interval", "chance %")
    for name, score in scores.items():
        chance = "-" if score.chance is None else f"{100 * score.chance:.0f}"
        table.add_row(name, str(score.n), f"{100 * score.accuracy:.1f}", score.span, chance)
    return table


def _averages(found: Summary) -> Table:
    table = _columns("means of accuracies", "right %", "95 % interval")
    for name, average in found.averages.items():
        table.add_row(f"over {name}", f"{100 * average.value:.1f}", average.span)
    return table


def _delays(found: Summary) -> Table:
    table = _columns("asked again", "n", "right % at first", "later", "change, 95 %")
    for name, losses in found.by_delay.items():
        for delay, loss in losses.items():
            before, now = (f"{100 * score.accuracy:.1f}" for score in (loss.before, loss.now))
            table.add_row(f"{name}, {delay} s later", str(loss.now.n), before, now, loss.change.span("+.1f"))
    return table


def _means(scores: Mapping[str, MeanScore]) -> Table:
    table = _columns("judge's scores, 0 to 5", "n", "mean", "95 % interval")
    for name, score in scores.items():
        table.add_row(name, str(score.n), f"{score.mean:.2f}", score.span)
    return table


def _columns(title: str, *names: str) -> Table:
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.title_justify, table.title_style, table.header_style = "left", "bold", "dim"
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    return table
