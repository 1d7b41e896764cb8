"""Contestants timed round by round in one run: their times, and their ratio to the plain one, as records."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hermes.bench import Record, Recorder, write_records

# Seconds per round, by what is done and who does it; every shape has a contestant "plain".
Times = Mapping[tuple[str, str], Sequence[float]]


def run(
    doc: str | None, title: str, measure: Callable[[int], Times], rounds: int, notes: Mapping[str, str] | None
) -> None:
    """Parse ``--rounds`` and ``--csv``, measure on one thread, print a table, and append records to the CSV.

    ``notes`` has a last column's text by contestant.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--csv", type=Path, help="append the records here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    times = measure(arguments.rounds)
    recorder = Recorder("cpu")
    table = Table(title=f"{title} ({recorder.machine}; {recorder.versions})")
    for column in (
        "of",
        "contestant",
        "median ms",
        "deciles ms",
        "ratio to plain",
        *(["release"] if notes else []),
    ):
        table.add_column(column, justify="left" if column in ("of", "contestant") else "right")
    records: list[Record] = []
    for (shape, name), seconds in times.items():
        ratios = [own / plain for own, plain in zip(seconds, times[shape, "plain"], strict=True)]
        taken = recorder.record("time", name, shape, "float32", [1e3 * s for s in seconds], unit="ms")
        ratio = recorder.record("ratio to plain", name, shape, "float32", ratios, unit="times")
        records += [taken, ratio]
        deciles = f"{taken.low:.1f} - {taken.high:.1f}"
        row = [shape, name, f"{taken.median:.1f}", deciles, f"{ratio.median:.2f}"]
        table.add_row(*row, *([notes.get(name, "")] if notes else []))
    Console().print(table)
    if arguments.csv:
        write_records(arguments.csv, records)
