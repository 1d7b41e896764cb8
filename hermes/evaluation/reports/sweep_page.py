"""A sweep's outcomes as tables and plots, beside published numbers and baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hermes.config import Extras
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.evaluation.reports.sweep_ages import ages
from hermes.evaluation.reports.sweep_plots import line_name, numeric_axis, plot_losses, plot_sweep, spread_of
from hermes.evaluation.reports.sweep_sections import (
    accuracies,
    averages,
    costs,
    differences,
    kinds,
    losses,
    matched_memory,
    overview,
    unscored,
    values_of,
)
from hermes.evaluation.results.journal import read_run
from hermes.evaluation.results.rows import AnswerRow, video_of
from hermes.evaluation.results.run_folder import machine_of, read_manifest, run_file
from hermes.evaluation.scoring.compare import Comparison, Difference, compare_rows
from hermes.evaluation.scoring.measures import MEASURES
from hermes.evaluation.scoring.same_bytes import Line, lines_of, persistent, within_bytes
from hermes.evaluation.scoring.summary import grouped, summarise
from hermes.evaluation.sweeps.cells import SweepCell, as_text
from hermes.evaluation.sweeps.running import Outcome
from hermes.files import write_csv_whole
from hermes.pages.markdown import escape, write_page

__all__ = ["check_extras", "sweep_rows", "write_sweep"]

# More than any benchmark has clips.
_CLIPS = 1 << 32
_NUMBERS = ("n", "right", "accuracy", "low", "high", "chance")
_Wanted = str | Mapping[str, Any]
_Pairs = Mapping[str, Mapping[str, Comparison]]


def check_extras(cells: Sequence[SweepCell], extras: Extras) -> None:
    """See that an experiment names measures, baselines and a matched line that there are.

    Raises:
        SettingError: an unknown measure, a setting to pool that is not swept, a baseline that is no cell, or
            a matched one that is no line along a budget.
    """
    for name in extras.measures:
        if name not in MEASURES:
            raise SettingError("measures", name, list(MEASURES), did_you_mean(name, list(MEASURES)))
    axes = sorted({key for cell in cells for key, value in cell.values.items() if value})
    for key in extras.pool:
        if key not in axes:
            raise SettingError("pool", key, axes, did_you_mean(key, axes))
    cells = [_without(cell, extras.pool) for cell in cells]
    labels = list(dict.fromkeys(cell.label for cell in cells))
    for wanted in extras.baselines:
        if not any(_baseline(cell, cells, wanted) for cell in cells):
            raise SettingError("baseline", str(wanted), labels, did_you_mean(str(wanted), labels))
    if extras.matched:
        # Without an axis, as where the command line gives one budget, nothing is matched.
        axis = numeric_axis(cells)
        lines = sorted({line_name(cell, axis) for cell in cells if axis is None or axis in cell.values})
        if extras.matched not in [*lines, *(name for cell in cells for name in cell.values)]:
            raise SettingError("matched", extras.matched, lines, did_you_mean(extras.matched, lines))


def write_sweep(outcomes: Sequence[Outcome], folder: str | Path, extras: Extras) -> Path:
    """Write ``table.csv``, ``table.md`` and plots; returns the page.

    Args:
        outcomes: of all cells.
        folder: of the sweep.
        extras: title, published numbers, baselines and measures of the experiment.
    """
    folder = Path(folder)
    done, rows_of = _pooled([o for o in outcomes if o.record is not None], folder, extras.pool)
    pairs = {_named(wanted): _compared(done, rows_of, wanted) for wanted in extras.baselines}
    rows = sweep_rows(done, pairs)
    parts = [f"# {escape(extras.title or folder.resolve().name)}", *_unlike(done, folder)]
    if rows:
        write_csv_whole(folder / "table.csv", rows)
        # Apart, as times differ from run to run.
        write_csv_whole(folder / "costs.csv", _cost_rows(done))
        apart = spread_of([outcome.cell for outcome in done]) is not None
        plot_sweep(done, folder / "plot.png", () if apart else extras.measures)
        parts += ["![Accuracy by cell](plot.png)", overview(done, pairs, extras.measures)]
        if apart and extras.measures:
            # With many lines, accuracies and costs side by side would be too wide.
            plot_sweep(done, folder / "costs.png", extras.measures, accuracy=False)
            parts += ["![Costs by cell](costs.png)"]
        parts += [accuracies(done, extras.paper)]
        named = len(pairs) > 1
        parts += [differences(done, found, base * named) for base, found in pairs.items() if found]
        parts += [costs(done, extras.measures)] if extras.measures else []
        parts += [kinds(done), averages(done), ages(done, folder / "ages.png")]
        if extras.matched:
            parts += [_matched(done, rows_of, folder, extras)]
        again = [outcome for outcome in done if (outcome.record or {}).get("by_delay")]
        if again:
            told = {line_name(o.cell, None): (o.record or {})["by_delay"] for o in again}
            parts += [losses(again, drawn=plot_losses(told, folder / "losses.png"))]
    if any("*)" in part for part in parts):
        parts.append(
            "A star: few videos and few answers of one kind, so that the interval may be too narrow."
        )
    parts += sorted({line for outcome in done for line in unscored(outcome.record)})
    broken = [outcome for outcome in outcomes if outcome.record is not None and outcome.error]
    if broken:
        parts.append("Videos that could not be read:\n\n" + "\n".join(map(_lost, broken)))
    failed = [outcome for outcome in outcomes if outcome.record is None]
    if failed:
        parts.append(
            "Failed:\n\n" + "\n".join(f"- {escape(o.cell.label)}: {escape(o.error)}" for o in failed)
        )
    labels = {outcome.cell.label for outcome in outcomes}
    rest = {name: value for name, value in extras.paper.items() if name not in labels}
    if rest:
        parts.append(
            "Published:\n\n" + "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in rest.items())
        )
    return write_page(folder / "table.md", parts)


def _lost(outcome: Outcome) -> str:
    found = (outcome.record or {}).get("broken", [])
    videos = "; ".join(f"{escape(one['video'])}: {escape(one['error'])}" for one in found)
    return f"- {escape(outcome.cell.label)}: {escape(outcome.error)} ({videos})"


def _unlike(done: Sequence[Outcome], folder: Path) -> list[str]:
    """What cells were not made with alike, though no setting says so."""
    made: dict[str, set[str]] = {}
    mixed = []
    for outcome in done:
        own = folder / "cells" / outcome.cell.hash
        about = read_manifest(own) if run_file(own, "manifest.json").is_file() else {}
        for name, value in machine_of(about).items():
            made.setdefault(name, set()).add(value)
        if about.get("mixed"):
            mixed.append(outcome.cell.label or outcome.cell.hash)
    said = [f"{name}: {', '.join(sorted(values))}" for name, values in made.items() if len(values) > 1]
    out = [f"Cells were not all made with the same: {escape('; '.join(said))}."] if said else []
    return out + [f"Cells gone on with what had not made them: {escape('; '.join(mixed))}."] * bool(mixed)


def sweep_rows(outcomes: Sequence[Outcome], pairs: _Pairs | None = None) -> list[dict[str, Any]]:
    """One line for each group of each cell: its values, the group, n, accuracy, interval and chance.

    Args:
        outcomes: of cells.
        pairs: name of a baseline -> hash of a cell -> it against the baseline. With several baselines the
            columns of differences name theirs.
    """
    out = []
    row: dict[str, Any]
    for outcome in outcomes:
        if outcome.record is None:
            continue
        for group, name, score in grouped(outcome.record):
            row = {**values_of(outcome.cell), "group": group, "name": name}
            row |= {key: score[key] for key in _NUMBERS}
            for base, compared in (pairs or {}).items():
                found = _difference(compared.get(outcome.cell.hash), group, name)
                if found is not None:
                    ends = {"difference_low": found.interval.low, "difference_high": found.interval.high}
                    tests = {"p": found.p_clustered, "mcnemar_p": found.p}
                    suffix = f" ({base})" if pairs and len(pairs) > 1 else ""
                    told: dict[str, float] = {"difference": found.difference, **ends, **tests}
                    row |= {f"{key}{suffix}": value for key, value in told.items()}
            out.append(row)
    return out


def _cost_rows(done: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [
        {**values_of(outcome.cell), "measure": name, **cost}
        for outcome in done
        for name, cost in (outcome.record or {}).get("costs", {}).items()
    ]


def _named(wanted: _Wanted) -> str:
    return wanted if isinstance(wanted, str) else ", ".join(f"{key}={wanted[key]}" for key in wanted)


def _baseline(cell: SweepCell, cells: Sequence[SweepCell], wanted: _Wanted) -> SweepCell | None:
    """The cell that this one is compared with; None for a baseline itself."""
    own = dict(cell.values)
    if isinstance(wanted, str):
        # A name stands for the cell of this name with the same settings otherwise, or else for a whole label.
        values = {wanted: "", **{key: value for key, value in own.items() if value}}
    else:
        values = {**own, **{key: as_text(value) for key, value in wanted.items()}}
    found = [other for other in cells if other.values == values or other.label == wanted]
    return found[0] if found and found[0] is not cell else None


def _without(cell: SweepCell, pool: Sequence[str]) -> SweepCell:
    kept = {key: value for key, value in cell.values.items() if key not in pool}
    return SweepCell(kept, cell.overrides, cell.hash, cell.judge)


def _apart(cell: SweepCell, keys: Sequence[str]) -> str:
    return "".join(f"{key}={cell.values.get(key, '')}/" for key in keys)


def _pooled(
    done: Sequence[Outcome], folder: Path, pool: Sequence[str]
) -> tuple[list[Outcome], Callable[[SweepCell], list[AnswerRow]]]:
    """Outcomes with repetitions as one, and what gives a cell's rows."""

    def read(cell: SweepCell) -> list[AnswerRow]:
        return read_run(folder / "cells" / cell.hash)[0]

    if not pool:
        return list(done), read
    # Other data are other videos; otherwise the repetitions of a video are answers to one and the same.
    apart = [key for key in pool if key.startswith("data.")]
    parts: dict[str, list[Outcome]] = {}
    for outcome in done:
        parts.setdefault(_without(outcome.cell, pool).label, []).append(outcome)
    repeated = list(dict.fromkeys(tuple(o.cell.values.get(key) for key in pool) for o in done))
    rows: dict[str, list[AnswerRow]] = {}
    out = []
    for part in parts.values():
        cell = _without(part[0].cell, pool)
        # Repetitions number their clips alike.
        rows[cell.hash] = [
            replace(row, clip=row.clip + i * _CLIPS, video=_apart(outcome.cell, apart) + video_of(row))
            for outcome in part
            for i in [repeated.index(tuple(outcome.cell.values.get(key) for key in pool))]
            for row in read(outcome.cell)
        ]
        out.append(Outcome(cell, summarise(rows[cell.hash]).record()))
    return out, lambda cell: rows[cell.hash]


def _compared(
    done: Sequence[Outcome], rows_of: Callable[[SweepCell], list[AnswerRow]], wanted: _Wanted
) -> dict[str, Comparison]:
    """Hash of a cell -> it against its baseline, as far as they were asked the same."""
    cells = [outcome.cell for outcome in done]
    out = {}
    for cell in cells:
        base = _baseline(cell, cells, wanted)
        if base is None:
            continue
        try:
            out[cell.hash] = compare_rows(rows_of(base), rows_of(cell), names=(base.label, cell.label))
        except InputError:
            # Other streams, so other questions: nothing to pair.
            continue
    return out


def _difference(comparison: Comparison | None, group: str, name: str) -> Difference | None:
    if comparison is None:
        return None
    return comparison.overall if group == "overall" else comparison.by_category.get(name)


def _matched(
    done: Sequence[Outcome], rows_of: Callable[[SweepCell], list[AnswerRow]], folder: Path, extras: Extras
) -> str:
    """Every line at the bytes of one, at each of its budgets; in ``matched.csv``, too."""
    axis = numeric_axis([outcome.cell for outcome in done])
    lines: dict[str, dict[str, list[AnswerRow]]] = {}
    for outcome in done if axis else []:
        rows = rows_of(outcome.cell)
        lines.setdefault(line_name(outcome.cell, axis), {})[outcome.cell.values.get(str(axis), "")] = rows
    sizes = {
        f"{extras.matched} at {axis}={place}": float(persistent(rows))
        for place, rows in lines.get(extras.matched, {}).items()
    }
    bases = [_named(wanted) for wanted in extras.baselines]
    found: dict[str, list[Line]] = {}
    table = []
    for title, size in sizes.items():
        every = {method: within_bytes(list(runs.values()), size) for method, runs in lines.items()}
        found[title] = lines_of({name: own for name, own in every.items() if own is not None}, bases)
        for line in found[title]:
            row = {"bytes": size, "of": title, "method": line.method, "held": line.held}
            row |= {"name": line.name or "all", "accuracy": line.share.value, **line.share.interval._asdict()}
            for base, gap in line.gaps.items():
                ends = {f"low ({base})": gap.interval.low, f"high ({base})": gap.interval.high}
                row |= {f"less {base}": gap.value, **ends}
            table.append(row)
    if table:
        write_csv_whole(folder / "matched.csv", table)
    return matched_memory(found, sizes, bases)
