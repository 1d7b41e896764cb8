"""Latency and memory of many settings: each measured in a process of its own, one table and one plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hermes.bench.records import Record, frames_of
from hermes.bench.stream import draw_stream, measure
from hermes.evaluation.sweeps.cells import SweepCell
from hermes.evaluation.sweeps.running import Outcome, run_cell
from hermes.files import write_csv_whole, write_text_whole
from hermes.machine.processes import processes
from hermes.pages.markdown import Markdown, escape, table
from hermes.pages.styles import STYLES, save_with_legend
from hermes.pages.text import in_figure
from hermes.reading import typed

__all__ = ["QUANTITIES", "Measured", "measure_cells", "measured", "write_bench"]

# What a table is about, by operation, in the order of the page.
QUANTITIES: Mapping[str, str] = {
    "ttft": "Time to the first token",
    "tpot": "Time per token after it",
    "memory": "Memory held: keys, values, positions, provenance",
    "peak_memory": "Peak memory of the GPU, or on a CPU of the process",
    "encode": "Frames encoded",
    "compress": "Compression of a chunk",
}
_DRAWN = ("ttft", "tpot", "memory", "peak_memory")
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Measured:
    """A cell and its records."""

    cell: SweepCell
    records: tuple[Record, ...]

    def of(self, operation: str) -> list[Record]:
        """Its records of one operation, by number of frames."""
        return [record for record in self.records if record.operation == operation]


def measure_cells(cells: Sequence[SweepCell], folder: Path) -> Iterator[Outcome]:
    """Measure cells one after another, each in a process of its own, so that its peak memory is its own.

    A launcher for :func:`hermes.evaluation.sweeps.running.run_cells`.
    """
    for cell in cells:
        yield Outcome(cell, *run_cell(cell.overrides, folder / "cells" / cell.hash, _alone))


def _alone(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    with processes(1, measure.__module__) as pool:
        return {"records": [asdict(record) for record in pool.submit(measure, overrides).result()]}


def measured(outcomes: Sequence[Outcome]) -> list[Measured]:
    """The cells that were measured, with their records."""
    done = [outcome for outcome in outcomes if outcome.record is not None]
    return [
        Measured(
            outcome.cell,
            tuple(typed(Record, each, outcome.cell.label) for each in (outcome.record or {})["records"]),
        )
        for outcome in done
    ]


def write_bench(outcomes: Sequence[Outcome], folder: Path, title: str, paper: Mapping[str, Any]) -> Path:
    """Write ``records.csv``, ``table.md`` and ``plot.png``; returns the page.

    Args:
        outcomes: of all cells.
        folder: of the experiment.
        title: of the page.
        paper: published numbers, printed below ours: cell -> operation -> frames -> number.
    """
    found = measured(outcomes)
    parts = [f"# {escape(title)}\n"]
    if found:
        write_csv_whole(folder / "records.csv", _lines(found))
        _plot(found, folder / "plot.png")
        parts += ["![Latency and memory over frames](plot.png)\n", _about(found)]
        parts += [_table(found, operation, paper) for operation in QUANTITIES]
    failed = [outcome for outcome in outcomes if outcome.record is None]
    if failed:
        parts += [
            "Failed:\n",
            *(f"- {escape(outcome.cell.label)}: {escape(outcome.error)}" for outcome in failed),
            "",
        ]
    return write_text_whole(folder / "table.md", "\n".join(parts))


def _lines(found: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    return ({"cell": item.cell.label, **asdict(record)} for item in found for record in item.records)


def _about(found: Sequence[Measured]) -> str:
    """Where and with what: once, if it is the same for all."""
    records = [record for item in found for record in item.records]
    places = dict.fromkeys(
        f"{record.machine}; {record.versions}; {record.dtype}; commit {record.commit}" for record in records
    )
    how = (
        "Medians, with first and last decile where there are several: of the questions asked, or of the "
        "chunks since the column before. Each row was measured in a process of its own."
    )
    return "\n\n".join([how, *(f"{escape(place)}." for place in places)]) + "\n"


def _table(found: Sequence[Measured], operation: str, paper: Mapping[str, Any]) -> str:
    mine = [(item.cell.label, item.of(operation)) for item in found]
    mine = [(label, records) for label, records in mine if records]
    if not mine:
        return ""
    frames = sorted({frames_of(record) for _, records in mine for record in records})
    head = ["cell", *(f"{count} frames" for count in frames)]
    lines = []
    for label, records in mine:
        values = {frames_of(record): _value(record) for record in records}
        lines.append([label, *(values.get(count, "-") for count in frames)])
        if published := paper.get(label, {}).get(operation):
            lines.append([Markdown("*published*"), *(str(published.get(count, "-")) for count in frames)])
    title = f"## {QUANTITIES[operation]} ({mine[0][1][0].unit})"
    return f"{title}\n\n{table(head, lines, rule='|---')}\n"


def _value(record: Record) -> str:
    if record.low == record.high:
        return f"{record.median:.3g}"
    return f"{record.median:.3g} ({record.low:.3g}-{record.high:.3g})"


def _plot(found: Sequence[Measured], path: Path) -> None:
    """A panel a quantity; a colour for each value of the first setting, a dash for the others'."""
    from matplotlib.figure import Figure

    first = [_name(list(item.cell.values.items())[:1]) for item in found]
    others = [_name(list(item.cell.values.items())[1:]) for item in found]
    colours, dashes = list(dict.fromkeys(first)), list(dict.fromkeys(others))
    drawn = [name for name in _DRAWN if any(item.of(name) for item in found)]
    figure = Figure(figsize=(3.1 * len(drawn), 3.9), layout="constrained")
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for panel, operation in zip(axes, drawn, strict=True):
        for item, colour, dash in zip(found, first, others, strict=True):
            own = STYLES[colours.index(colour) % len(STYLES)]
            style = {"color": own.colour, "marker": own.mark, "markersize": 4.5}
            line = _DASHES[dashes.index(dash) % len(_DASHES)]
            if records := item.of(operation):
                draw_stream(panel, records, **style, linestyle=line, label=in_figure(item.cell.label))
        # The heading of the table, up to what explains it.
        panel.set_ylim(bottom=0)
        panel.set_title(QUANTITIES[operation].partition(":")[0].partition(" of ")[0], fontsize="medium")
    save_with_legend(figure, axes[0], path, columns=3)


def _name(values: Sequence[tuple[str, str]]) -> str:
    return " ".join(f"{key}={value}" if value else key for key, value in values)
