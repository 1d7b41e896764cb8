"""`hermes sweep`: many evaluations, resumable, several at a time, one table and one plot."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from hermes.cli.arguments import split_settings
from hermes.cli.completion import complete_settings
from hermes.cli.output import keeps, note, out
from hermes.cli.progress import Bars
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes.evaluation.sweeps.cells import SweepCell
    from hermes.evaluation.sweeps.running import Launch, Outcome

_LAUNCHERS = ("processes", "submitit-local", "submitit-slurm")


@keeps("Cells that are done are kept, and every question that the others have answered.")
def sweep(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="As for hermes eval; several values with commas.",
            metavar="KEY=VALUE,VALUE",
            autocompletion=complete_settings,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Cells at a time.", min=1)] = 1,
    only: Annotated[
        str, typer.Option(help="Run only the cells whose name matches: 'Qwen*'.", metavar="PATTERN")
    ] = "*",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and run none.")] = False,
    launcher: Annotated[
        str, typer.Option(help=f"One of {', '.join(_LAUNCHERS)}.", metavar="NAME")
    ] = "processes",
    launch: Annotated[
        list[str] | None,
        typer.Option(help="A setting of submitit: --launch timeout_min=60.", metavar="KEY=VALUE"),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Go on with cells that other settings, weights or versions began; the page says so.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a cell on stdout, and nothing else.")
    ] = False,
) -> None:
    """Run a product of settings, or an experiment file, as one evaluation a cell.

    Every cell has a folder of its own below output=FOLDER, named by a hash of its settings. The same command
    again does what is missing: cells that were stopped go on where they were, those that failed are tried
    again. At the end: table.csv, table.md and plot.png.

    Examples:
    \b
    hermes sweep policy=fifo,hermes policy.budget=32,64,128 data.world.length=64
    hermes sweep experiment=NAME --jobs 2
    hermes sweep experiment=NAME policy.budget=64 --dry-run
    hermes sweep experiment=NAME data.annotations=FILE --only 'Qwen3*'
    hermes sweep experiment=NAME --launcher submitit-slurm --jobs 8
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    words, given = split_settings(settings or [])
    if words:
        raise InputError(f"{words[0]!r} is no setting; needed: key=value, such as policy=fifo,hermes")
    from hermes.config import experiment_extras
    from hermes.evaluation.reports.sweep_page import check_extras, write_sweep
    from hermes.evaluation.sweeps.cells import cells_of, matching
    from hermes.evaluation.sweeps.running import is_done, run_cells

    overrides = [word for word in given if not word.startswith("output=")]
    cells, extras = cells_of(overrides), experiment_extras(overrides)
    check_extras(cells, extras)
    folder = sweep_folder(Path("runs/sweep"), given, cells)
    # What was done before is in the table, too.
    chosen = matching(cells, only)
    done = {cell.hash for cell in cells if is_done(cell, folder)}
    cells = [cell for cell in cells if cell in chosen or cell.hash in done]
    starter = _launch(launcher, jobs, launch or [], anyway=anyway)
    if dry_run:
        _list(cells, folder)
        return
    make_folder(folder)
    found: list[Outcome] = []
    with redirect_stdout(sys.stderr), Bars() as bars:
        watch = bars.watcher("cells")
        watch(len(done), len(cells))
        for outcome in run_cells(cells, folder, starter, anyway=anyway):
            found.append(outcome)
            watch(len(found), len(cells))
            if outcome.error:
                label = "failed" if outcome.record is None else "broken"
                note(label, f"{outcome.cell.label}: {outcome.error}")
    found.sort(key=lambda outcome: cells.index(outcome.cell))
    page = write_sweep(found, folder, extras)
    if as_json:
        for outcome in found:
            record = {"cell": dict(outcome.cell.values), "hash": outcome.cell.hash, "error": outcome.error}
            out().file.write(json.dumps({**record, **(outcome.record or {})}) + "\n")
    else:
        _show(found)
        out().print(f"table, plot and cells: {page.parent}", soft_wrap=True)
    if any(outcome.error for outcome in found):
        raise typer.Exit(1)


def sweep_folder(root: Path, given: Sequence[str], cells: Sequence[SweepCell]) -> Path:
    """What output= names; otherwise one below root by the experiment's name, or by what the cells are."""
    named = [word.partition("=")[2] for word in given if word.startswith("output=")]
    if named:
        return Path(named[-1])
    experiment = [word.partition("=")[2] for word in given if word.startswith("experiment=")]
    if experiment:
        return root / Path(experiment[-1]).stem
    digest = hashlib.sha256(" ".join(sorted(cell.hash for cell in cells)).encode()).hexdigest()
    return root / digest[:8]


def _launch(name: str, jobs: int, given: Sequence[str], *, anyway: bool) -> Launch:
    from hermes.evaluation.sweeps.running import in_processes, on_cluster

    if name not in _LAUNCHERS:
        raise SettingError("--launcher", name, _LAUNCHERS, did_you_mean(name, _LAUNCHERS))
    if name == "processes":
        if given:
            raise InputError("--launch is for submitit's launchers")
        return in_processes(jobs, anyway=anyway)
    pairs = [word.partition("=") for word in given]
    values = {key: int(value) if value.isdigit() else value for key, _, value in pairs}
    return on_cluster(name.partition("-")[2], jobs, values, anyway=anyway)


def _list(cells: Sequence[SweepCell], folder: Path) -> None:
    from hermes.evaluation.sweeps.running import is_done

    for cell in cells:
        done = is_done(cell, folder)
        state = Text("done   " if done else "missing", "green" if done else "yellow")
        out().print(Text.assemble(state, f"  {cell.hash[:8]}  {cell.label}"), soft_wrap=True)


def _show(found: Sequence[Outcome]) -> None:
    from hermes.evaluation.reports.sweep_sections import unscored

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("cell", overflow="fold")
    for name in ("n", "right %", "95 % interval"):
        table.add_column(name, justify="right")
    for outcome in found:
        if outcome.record is None:
            table.add_row(outcome.cell.label, "", "failed", "")
            continue
        score = outcome.record["overall"]
        interval = f"{100 * score['low']:.1f} to {100 * score['high']:.1f}" if score["n"] else "-"
        right = f"{100 * score['accuracy']:.1f}" if score["n"] else "-"
        table.add_row(outcome.cell.label, str(score["n"]), right, interval)
    out().print(table)
    for text in sorted({line for outcome in found for line in unscored(outcome.record)}):
        out().print(text, soft_wrap=True)
