"""`hermes bench`: the paper's efficiency table for this machine and a backbone of your choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hermes.cli.arguments import split_settings
from hermes.cli.output import out
from hermes.errors import InputError

if TYPE_CHECKING:
    from hermes.benchmark import Record


def bench(
    settings: Annotated[list[str] | None, typer.Argument(help="Settings.", metavar="KEY=VALUE")] = None,
    frames: Annotated[
        str, typer.Option(help="Measure after so many frames, ascending.", metavar="N,N,...")
    ] = "16,64,256,512,4096",
    rounds: Annotated[int, typer.Option(help="Questions asked after each.", min=1)] = 5,
    size: Annotated[
        str, typer.Option(help="Height and width of the random frames, pixels.", metavar="HxW")
    ] = "384x384",
    csv: Annotated[Path | None, typer.Option(help="Append the records to this file.", metavar="FILE")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them.", metavar="FILE.png")] = None,
) -> None:
    """Measure encoding, compression, TTFT, TPOT and memory on random frames, with the paper's figures beside.

    Published shapes run with random weights, so that nothing is downloaded:
    backbone=random_llava_onevision_7b and backbone=random_qwen2_5_vl_7b. Decoding in place:
    generation.decoder=static or compile.
    """
    words, given = split_settings(settings or [])
    if words:
        raise InputError(f"{words[0]!r} is no setting: settings are KEY=VALUE")
    counts = _numbers(frames, ",", "--frames")
    height_width = _numbers(size, "x", "--size")
    if counts != sorted(set(counts)):
        raise InputError(f"--frames {frames}: the numbers must ascend")
    if len(height_width) != 2:
        raise InputError(f"--size {size}: a height and a width, such as 384x384")

    from hermes.benchmark import plot_stream, stream_records, write_records
    from hermes.run import session_from
    from hermes.settings import run_config

    with session_from(run_config(given)) as session:
        records = list(
            stream_records(session, counts, size=(height_width[0], height_width[1]), rounds=rounds)
        )
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


def _show(records: list[Record]) -> None:
    from hermes.benchmark import PAPER

    counts = list(dict.fromkeys(record.shape.split()[0] for record in records))
    table = Table(title=f"{records[0].machine} | {records[0].versions}", title_justify="left")
    table.add_column("")
    for count in counts:
        table.add_column(f"{count} frames", justify="right")
    table.add_column("paper (A800, LLaVA-OV-7B, 4K)", justify="right")
    for name in dict.fromkeys(record.operation for record in records):
        mine = {record.shape.split()[0]: record for record in records if record.operation == name}
        unit = next(iter(mine.values())).unit
        values = [f"{mine[count].median:.4g}" if count in mine else "" for count in counts]
        table.add_row(f"{name} ({unit})", *values, PAPER.get(name, ""))
    out().print(table)
