"""A sweep's outcomes as tables and plots, beside published numbers and a baseline."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hermes.config import Extras
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.evaluation.compare import Comparison, Difference, compare_rows
from hermes.evaluation.journal import read_run
from hermes.evaluation.measures import MEASURES
from hermes.evaluation.rows import Row, video_of
from hermes.evaluation.summary import grouped, summarise
from hermes.evaluation.sweep import Cell, Outcome, as_text
from hermes.evaluation.sweep_plots import FEW, plot_losses, plot_sweep
from hermes.evaluation.verdicts import Verdicts

__all__ = ["check_extras", "sweep_rows", "unscored", "write_sweep"]

# More than any benchmark has clips.
_MANY = 1 << 32
_NUMBERS = ("n", "right", "accuracy", "low", "high", "chance")


def check_extras(cells: Sequence[Cell], extras: Extras) -> None:
    """See that an experiment names measures and a baseline that there are.

    Source: this project.

    Raises:
        SettingError: an unknown measure, a setting to pool that is not swept, or a baseline that is no cell.
    """
    for name in extras.measures:
        if name not in MEASURES:
            raise SettingError("measures", name, list(MEASURES), did_you_mean(name, list(MEASURES)))
    axes = sorted({key for cell in cells for key, value in cell.values.items() if value})
    for key in extras.pool:
        if key not in axes:
            raise SettingError("pool", key, axes, did_you_mean(key, axes))
    cells = [_without(cell, extras.pool) for cell in cells]
    if extras.baseline and not any(_baseline(cell, cells, extras.baseline) for cell in cells):
        labels = [cell.label for cell in cells]
        raise SettingError(
            "baseline", str(extras.baseline), labels, did_you_mean(str(extras.baseline), labels)
        )


def write_sweep(outcomes: Sequence[Outcome], folder: Path, extras: Extras) -> Path:
    """Write ``table.csv``, ``table.md`` and plots; returns the page.

    Source: this project.

    Args:
        outcomes: of all cells.
        folder: of the sweep.
        extras: title, published numbers, baseline and measures of the experiment.
    """
    done, rows_of = _pooled([o for o in outcomes if o.record is not None], folder, extras.pool)
    pairs = _compared(done, rows_of, extras.baseline)
    rows = sweep_rows(done, pairs)
    parts = [f"# {extras.title or folder.name}"]
    if rows:
        _write_csv(folder / "table.csv", rows)
        # Apart, as times differ from run to run.
        _write_csv(folder / "costs.csv", _cost_rows(done))
        plot_sweep(done, folder / "plot.png", extras.measures)
        parts += ["![Accuracy by cell](plot.png)", _accuracies(done, extras.paper)]
        parts += [_differences(done, pairs)] if pairs else []
        parts += [_costs(done, extras.measures)] if extras.measures else []
        parts += [_kinds(done), _averages(done)]
        if any((outcome.record or {}).get("by_delay") for outcome in done):
            plot_losses(done, folder / "losses.png")
            parts += [_losses(done, drawn=(folder / "losses.png").exists())]
    if any("*)" in part for part in parts):
        parts.append(
            "A star: few videos and few answers of one kind, so that the interval may be too narrow."
        )
    parts += sorted({line for outcome in done for line in unscored(outcome.record)})
    failed = [outcome for outcome in outcomes if outcome.record is None]
    if failed:
        parts.append("Failed:\n\n" + "\n".join(f"- {o.cell.label}: {o.error}" for o in failed))
    labels = {outcome.cell.label for outcome in outcomes}
    rest = {name: value for name, value in extras.paper.items() if name not in labels}
    if rest:
        parts.append("Published:\n\n" + "\n".join(f"- {name}: {value}" for name, value in rest.items()))
    path = folder / "table.md"
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _cost_rows(done: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [
        {**_values(outcome.cell), "measure": name, **cost}
        for outcome in done
        for name, cost in (outcome.record or {}).get("costs", {}).items()
    ]


def sweep_rows(
    outcomes: Sequence[Outcome], pairs: Mapping[str, Comparison] | None = None
) -> list[dict[str, Any]]:
    """One line for each group of each cell: its values, the group, n, accuracy, interval and chance.

    Source: this project.

    Args:
        outcomes: of cells.
        pairs: hash of a cell -> it against the baseline.
    """
    out = []
    for outcome in outcomes:
        if outcome.record is None:
            continue
        values = _values(outcome.cell)
        for group, name, score in grouped(outcome.record):
            row = {**values, "group": group, "name": name, **{key: score[key] for key in _NUMBERS}}
            found = _difference((pairs or {}).get(outcome.cell.hash), group, name)
            if found is not None:
                ends = {"difference_low": found.interval.low, "difference_high": found.interval.high}
                row |= {"difference": found.difference, **ends, "mcnemar_p": found.p}
            out.append(row)
    return out


def _values(cell: Cell) -> dict[str, str]:
    named = [key for key, value in cell.values.items() if not value]
    return {**({"cell": named[0]} if named else {}), **{k: v for k, v in cell.values.items() if v}}


def _baseline(cell: Cell, cells: Sequence[Cell], wanted: str | Mapping[str, Any]) -> Cell | None:
    """The cell that this one is compared with; None for a baseline itself."""
    own = dict(cell.values)
    if isinstance(wanted, str):
        # A name stands for the cell of this name with the same settings otherwise, or else for a whole label.
        values = {wanted: "", **{key: value for key, value in own.items() if value}}
    else:
        values = {**own, **{key: as_text(value) for key, value in wanted.items()}}
    found = [other for other in cells if other.values == values or other.label == wanted]
    return found[0] if found and found[0] is not cell else None


def _without(cell: Cell, pool: Sequence[str]) -> Cell:
    kept = {key: value for key, value in cell.values.items() if key not in pool}
    return Cell(kept, cell.overrides, cell.hash, cell.judge)


def _apart(cell: Cell, keys: Sequence[str]) -> str:
    return "".join(f"{key}={cell.values.get(key, '')}/" for key in keys)


def _pooled(
    done: Sequence[Outcome], folder: Path, pool: Sequence[str]
) -> tuple[list[Outcome], Callable[[Cell], list[Row]]]:
    """Outcomes with repetitions as one, and what gives a cell's rows."""

    def read(cell: Cell) -> list[Row]:
        return read_run(folder / "cells" / cell.hash)[0]

    if not pool:
        return list(done), read
    # Other data are other videos; otherwise the repetitions of a video are answers to one and the same.
    apart = [key for key in pool if key.startswith("data.")]
    parts: dict[str, list[Outcome]] = {}
    for outcome in done:
        parts.setdefault(_without(outcome.cell, pool).label, []).append(outcome)
    rows: dict[str, list[Row]] = {}
    out = []
    for part in parts.values():
        cell = _without(part[0].cell, pool)
        # Repetitions number their clips alike.
        rows[cell.hash] = [
            replace(row, clip=row.clip + i * _MANY, video=_apart(outcome.cell, apart) + video_of(row))
            for i, outcome in enumerate(part)
            for row in read(outcome.cell)
        ]
        out.append(Outcome(cell, summarise(rows[cell.hash]).record()))
    return out, lambda cell: rows[cell.hash]


def _compared(
    done: Sequence[Outcome], rows_of: Callable[[Cell], list[Row]], wanted: str | Mapping[str, Any]
) -> dict[str, Comparison]:
    """Hash of a cell -> it against its baseline, as far as they were asked the same."""
    cells = [outcome.cell for outcome in done]
    out = {}
    for cell in cells if wanted else []:
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


def _records(done: Sequence[Outcome]) -> list[Mapping[str, Any]]:
    return [outcome.record or {} for outcome in done]


def _names(done: Sequence[Outcome], group: str) -> list[str]:
    return list(dict.fromkeys(name for record in _records(done) for name in record[group]))


def _keys(done: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(key for outcome in done for key in _values(outcome.cell))) or ["cell"]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    made = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in made)


def _lines(done: Sequence[Outcome], cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each cell's values before what is said of it."""
    keys = _keys(done)
    values = [_values(outcome.cell) for outcome in done]
    return [[*(each.get(key, "") for key in keys), *rest] for each, rest in zip(values, cells, strict=True)]


def _accuracies(done: Sequence[Outcome], paper: Mapping[str, Any]) -> str:
    names = _names(done, "by_category")
    names = names if len(names) > 1 else []
    published = [_published(paper.get(outcome.cell.label)) for outcome in done]
    columns = list(dict.fromkeys(name for each in published for name in each))
    every = [
        [*(record["by_category"].get(name) for name in names), record["overall"]] for record in _records(done)
    ]
    lines = []
    for scores, theirs in zip(every, published, strict=True):
        ours = [_score(score) + _fewer(score, first) for score, first in zip(scores, every[0], strict=True)]
        lines.append([*ours, *(f"{theirs[c]:g}" if c in theirs else "" for c in columns)])
    asked = map(_asked, every[0])
    last = [*([""] * (len(_keys(done)) - 1)), "*questions; chance %*", *asked, *([""] * len(columns))]
    head = [*_keys(done), *names, "all", *(f"published: {name}" for name in columns)]
    return "Per cent right, with 95 % intervals.\n\n" + _table(head, [*_lines(done, lines), last])


def _published(value: Any) -> dict[str, float]:
    if value is None:
        return {}
    return (
        {"all": float(value)} if not isinstance(value, Mapping) else {k: float(v) for k, v in value.items()}
    )


def unscored(record: Mapping[str, Any] | None) -> list[str]:
    """Which open-ended answers of a cell have no verdict, in sentences (this project)."""
    found = (record or {}).get("verdicts")
    counts = Verdicts(found["n"], found["waiting"], found["unreadable"]) if found else Verdicts()
    return counts.notes("the same command with")


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None or not score["n"]:
        return "-"
    low, high = 100 * score["low"], 100 * score["high"]
    return f"{100 * score['accuracy']:.1f} ({low:.0f}-{high:.0f}{'*' * score.get('doubtful', False)})"


def _fewer(score: Mapping[str, Any] | None, first: Mapping[str, Any] | None) -> str:
    """How many questions a cell has, where it is another number than the last line says."""
    return f", n {score['n']}" if score and score["n"] and (not first or first["n"] != score["n"]) else ""


def _asked(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    chance = "-" if score["chance"] is None else f"{100 * score['chance']:.0f}"
    return f"{score['n']}; {chance}"


def _differences(done: Sequence[Outcome], pairs: Mapping[str, Comparison]) -> str:
    compared = [outcome for outcome in done if outcome.cell.hash in pairs]
    names = list(dict.fromkeys(name for each in pairs.values() for name in each.by_category))
    names = names if len(names) > 1 else []
    lines = []
    for outcome in compared:
        found = pairs[outcome.cell.hash]
        lines.append([*(_points(found.by_category.get(name)) for name in names), _points(found.overall)])
    head = [*_keys(compared), *names, "all"]
    text = (
        "Difference from the baseline, in points: the same questions in pairs, with 95 % intervals clustered "
        "by video; bold where the interval leaves out zero."
    )
    return f"{text}\n\n{_table(head, _lines(compared, lines))}"


def _points(found: Difference | None) -> str:
    if found is None:
        return "-"
    low, high = 100 * found.interval.low, 100 * found.interval.high
    star = "*" * found.interval.doubtful
    text = f"{100 * found.difference:+.1f} ({low:+.1f} to {high:+.1f}{star})"
    return f"**{text}**" if found.told else text


def _costs(done: Sequence[Outcome], measures: Sequence[str]) -> str:
    lines = [[_cost(record.get("costs", {}).get(name)) for name in measures] for record in _records(done)]
    head = [*_keys(done), *(MEASURES[name][0] for name in measures)]
    return "At the questions: median (95th percentile).\n\n" + _table(head, _lines(done, lines))


def _cost(cost: Mapping[str, float] | None) -> str:
    return "-" if cost is None else f"{cost['median']:.3g} ({cost['high']:.3g})"


def _kinds(done: Sequence[Outcome]) -> str:
    """Kinds down, cells across: there may be many kinds."""
    names = _names(done, "by_kind")
    if len(names) < 2 or set(names) == set(_names(done, "by_category")) or len(done) > 12:
        return ""
    lines = [[name, *(_score(record["by_kind"].get(name)) for record in _records(done))] for name in names]
    head = ["kind", *(outcome.cell.label or "all" for outcome in done)]
    return "By kind of question.\n\n" + _table(head, lines)


def _averages(done: Sequence[Outcome]) -> str:
    names = list(dict.fromkeys(name for record in _records(done) for name in record.get("averages", {})))
    if not names:
        return ""
    lines = []
    for record in _records(done):
        found = [record.get("averages", {}).get(name) for name in names]
        lines.append([_average(each) for each in found])
    text = (
        "Means of accuracies (%) over tasks and categories. Where a benchmark defines its figures so, these "
        "are to be set beside published numbers, and not those of the first table."
    )
    return f"{text}\n\n" + _table([*_keys(done), *(f"mean of {name}" for name in names)], _lines(done, lines))


def _average(average: Mapping[str, float] | None) -> str:
    if average is None:
        return "-"
    ends = f"{100 * average['low']:.0f}-{100 * average['high']:.0f}"
    return f"{100 * average['value']:.1f} ({ends}){'*' * bool(average.get('doubtful'))}"


def _losses(done: Sequence[Outcome], *, drawn: bool) -> str:
    names = list(dict.fromkeys(name for record in _records(done) for name in record["by_delay"]))
    blocks = []
    for name in names:
        found = [record["by_delay"].get(name, {}) for record in _records(done)]
        delays = sorted({delay for losses in found for delay in losses}, key=float)
        lines = [[_loss(losses.get(delay)) for delay in delays] for losses in found]
        head = [*_keys(done), *(f"{delay} s later" for delay in delays)]
        blocks.append(f"Of {name}:\n\n" + _table(head, _lines(done, lines)))
    picture = "![Change of accuracy by delay](losses.png)\n\n" if drawn else ""
    text = (
        f"## Asked again\n\n{picture}Per cent right when asked again, and the change from the same questions "
        "at their own time, in points (95 %, paired). The longer the delay, the fewer the questions whose "
        f"answer still holds; points of fewer than {FEW} are not drawn."
    )
    return "\n\n".join([text, *blocks])


def _loss(loss: Mapping[str, Any] | None) -> str:
    if loss is None:
        return "-"
    change = loss["change"]
    ends = f"{100 * change['low']:+.0f} to {100 * change['high']:+.0f}{'*' * change.get('doubtful', False)}"
    return f"{100 * loss['accuracy']:.1f}; {100 * change['difference']:+.1f} ({ends}), n {loss['n']}"
