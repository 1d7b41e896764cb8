"""`hermes bench`: the paper's efficiency table for this machine and a backbone of your choice."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hermes.cli.arguments import split_settings
from hermes.cli.completion import complete_settings
from hermes.cli.output import err, keeps, note, out
from hermes.cli.sweep import sweep_folder
from hermes.errors import InputError
from hermes.files import make_folder, remove_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes.bench import Measured, Record
    from hermes.evaluation.sweeps.running import Outcome


@keeps("Cells that were measured are kept; a single measurement is not.")
def bench(
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Settings.", metavar="KEY=VALUE", autocompletion=complete_settings),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            help="Measure after so many frames: bench.frames, 16,64,256,512,4096.",
            metavar="N,N,...",
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Questions asked after each: bench.rounds, 5.", min=1)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Height and width of the random frames, pixels: bench.size, 384x384.", metavar="HxW"
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Append the records to this file.", metavar="FILE")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them.", metavar="FILE.png")] = None,
    only: Annotated[
        str, typer.Option(help="Measure only the cells whose name matches.", metavar="PATTERN")
    ] = "*",
    again: Annotated[bool, typer.Option("--again", help="Measure done cells anew.")] = False,
) -> None:
    """Measure encoding, compression, TTFT, TPOT and memory on random frames.

    The paper's figures stand beside where the model has their shape and the memory their budget.

    Published shapes run with random weights, so that nothing is downloaded:
    backbone=random_llava_onevision_7b and backbone=random_qwen2_5_vl_7b. Steps of fixed shapes:
    memory.execution=static or compile.

    With several values of a setting, or an experiment file, each cell is measured in a process of its own,
    one at a time. The same command again measures what is missing. Below output=FOLDER (by default
    runs/bench/NAME): records.csv, table.md and plot.png.

    Examples:
    \b
    hermes bench policy.budget=4000 --csv bench.csv --plot bench.png
    hermes bench experiment=table3
    hermes bench experiment=table3 --only '*chunk_frames=16'
    hermes bench policy=hermes,full stream.chunk_frames=8,16 bench.frames=[16,64]
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    words, given = split_settings(settings or [])
    if words:
        raise InputError(f"{words[0]!r} is no setting: settings are KEY=VALUE")
    if frames is not None:
        counts = _numbers(frames, ",", "--frames")
        if counts != sorted(set(counts)):
            raise InputError(f"--frames {frames}: the numbers must ascend")
        given.append(f"bench.frames={counts}")
    if size is not None:
        height_width = _numbers(size, "x", "--size")
        if len(height_width) != 2:
            raise InputError(f"--size {size}: a height and a width, such as 384x384")
        given.append(f"bench.size={height_width}")
    if rounds is not None:
        given.append(f"bench.rounds={rounds}")

    from hermes.evaluation.sweeps.cells import split_axes

    if split_axes(given)[1] or any(word.startswith("experiment=") for word in given):
        if csv is not None or plot is not None:
            raise InputError("--csv and --plot are of one measurement; several are kept below output=FOLDER")
        _experiment(given, only, again=again)
        return
    from hermes.bench import measure, plot_stream, write_records

    records = measure(given)
    if csv is not None:
        write_records(csv, records)
    if plot is not None:
        plot_stream(plot, records)
    _show(records)


def _numbers(text: str, separator: str, option: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(separator)]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise InputError(f"{option} {text}: positive whole numbers with {separator!r} between them")
    return found


def _experiment(given: Sequence[str], only: str, *, again: bool) -> None:
    from hermes.bench import bench_identity, beside_paper, measure_cells, measured, write_bench
    from hermes.config import experiment_extras
    from hermes.evaluation.results.run_folder import DONE, run_file
    from hermes.evaluation.sweeps.cells import cells_of, matching
    from hermes.evaluation.sweeps.running import FAILED, is_done, run_cells

    overrides = [word for word in given if not word.startswith("output=")]
    cells = cells_of(overrides, identify=bench_identity)
    folder = sweep_folder(Path("runs/bench"), given, cells)
    chosen = matching(cells, only)
    if again:
        for cell in chosen:
            for name in (DONE, FAILED):
                remove_file(run_file(folder / "cells" / cell.hash, name))
    # What was measured before is in the table, too.
    cells = [cell for cell in cells if cell in chosen or is_done(cell, folder)]
    make_folder(folder)
    found: list[Outcome] = []
    with redirect_stdout(sys.stderr), err().status("measuring") as status:
        for outcome in run_cells(cells, folder, measure_cells):
            found.append(outcome)
            status.update(f"measuring: {len(found)} of {len(cells)} cells done")
            if outcome.record is None:
                note("failed", f"{outcome.cell.label}: {outcome.error}")
    found.sort(key=lambda outcome: cells.index(outcome.cell))
    extras = experiment_extras(overrides)
    # An experiment's figures are of the model it names.
    renamed = any(word.startswith("backbone") for word in overrides)
    done = [record for item in measured(found) for record in item.records]
    same = not renamed or all(beside_paper(record, budget=False) for record in done)
    page = write_bench(found, folder, extras.title or folder.name, extras.paper if same else {})
    _show_cells(measured(found))
    out().print(f"table, plot and records: {page.parent}", soft_wrap=True)
    if any(outcome.record is None for outcome in found):
        raise typer.Exit(1)


def _show(records: Sequence[Record]) -> None:
    from hermes.bench import PAPER, beside_paper, frames_of

    counts = list(dict.fromkeys(map(frames_of, records)))
    table = Table(title=f"{records[0].machine} | {records[0].versions}", title_justify="left")
    table.add_column("")
    for count in counts:
        table.add_column(f"{count} frames", justify="right")
    published = PAPER if all(map(beside_paper, records)) else {}
    if published:
        table.add_column("paper (A800, LLaVA-OV-7B, 4K)", justify="right")
    for name in dict.fromkeys(record.operation for record in records):
        mine = {frames_of(record): record for record in records if record.operation == name}
        unit = next(iter(mine.values())).unit
        values = [f"{mine[count].median:.4g}" if count in mine else "" for count in counts]
        table.add_row(f"{name} ({unit})", *values, *([published.get(name, "")] if published else []))
    out().print(table)


def _show_cells(found: Sequence[Measured]) -> None:
    """Latency and memory, cell by cell; the page has the rest."""
    from hermes.bench import frames_of

    counts = sorted({frames_of(record) for item in found for record in item.records})
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("cell", overflow="fold")
    table.add_column("")
    for count in counts:
        table.add_column(f"{count} frames", justify="right")
    for item in found:
        label = item.cell.label
        for operation in ("ttft", "tpot", "memory", "peak_memory"):
            mine = {frames_of(record): record for record in item.of(operation)}
            if mine:
                unit = next(iter(mine.values())).unit
                values = [f"{mine[count].median:.4g}" if count in mine else "" for count in counts]
                table.add_row(label, f"{operation} ({unit})", *values)
                label = ""
    out().print(table)
