"""The parts of a sweep's page: accuracies, differences, costs and losses, as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hermes.evaluation.reports.sweep_plots import FEW, line_name, places_of, spread_of
from hermes.evaluation.scoring.compare import Comparison, Difference
from hermes.evaluation.scoring.measures import MEASURES
from hermes.evaluation.scoring.same_bytes import Line
from hermes.evaluation.scoring.statistics import Interval, holm
from hermes.evaluation.scoring.verdicts import Verdicts
from hermes.evaluation.sweeps.cells import SweepCell
from hermes.evaluation.sweeps.running import Outcome
from hermes.pages.markdown import Markdown, escape, table

__all__ = [
    "accuracies",
    "as_score",
    "averages",
    "costs",
    "differences",
    "fewer",
    "kinds",
    "losses",
    "matched_memory",
    "overview",
    "unscored",
    "values_of",
]

_Line = Mapping[str, str]
# With more comparisons than these, some leave out zero by chance alone.
_FEW = 20


def values_of(cell: SweepCell) -> dict[str, str]:
    """A cell's settings, its name under ``cell`` if it has one."""
    named = [key for key, value in cell.values.items() if not value]
    return {**({"cell": named[0]} if named else {}), **{k: v for k, v in cell.values.items() if v}}


def accuracies(done: Sequence[Outcome], paper: Mapping[str, Any]) -> str:
    """Accuracy by category and of all, beside published numbers."""
    names = _names(done, "by_category")
    names = names if len(names) > 1 else []
    published = [_published(paper.get(outcome.cell.label)) for outcome in done]
    columns = list(dict.fromkeys(name for each in published for name in each))
    every = [
        {**{name: record["by_category"].get(name) for name in names}, "all": record["overall"]}
        for record in _records(done)
    ]
    lines: list[_Line] = []
    for scores, theirs in zip(every, published, strict=True):
        ours = {name: as_score(score) + fewer(score, every[0][name]) for name, score in scores.items()}
        lines.append(
            {**ours, **{f"published: {c}": f"{theirs[c]:g}" if c in theirs else "" for c in columns}}
        )
    asked = {name: _asked(score) for name, score in every[0].items()}
    return _laid_out(
        "Per cent right, with 95 % intervals.", done, lines, (Markdown("*questions; chance %*"), asked)
    )


def overview(
    done: Sequence[Outcome], pairs: Mapping[str, Mapping[str, Comparison]], measures: Sequence[str]
) -> str:
    """Where lines are many: for each value of the numeric setting a table with everything in a row.

    Args:
        done: outcomes.
        pairs: name of a baseline -> hash of a cell -> it against the baseline.
        measures: whose medians are shown.
    """
    axis = spread_of([outcome.cell for outcome in done])
    if axis is None:
        return ""
    names = _names(done, "by_category")
    names = names if len(names) > 1 else []
    bases = [base for base in pairs if pairs[base]]
    head = ["", *names, "all", *(f"less {base}" for base in bases), *(MEASURES[name][0] for name in measures)]
    blocks = [
        "Per cent right, differences over all questions in points (pairs, 95 %, clustered by video), and "
        "medians of costs at the questions; the other intervals are below. Bold: the interval leaves out "
        "zero; †: also with Holm's correction over all differences from that baseline in these tables."
    ]
    sure = {base: _sure(pairs[base]) for base in bases}
    for place in places_of([outcome.cell for outcome in done], axis):
        lines = []
        for outcome in done:
            record = outcome.record or {}
            if outcome.cell.values.get(axis, "") != place:
                continue
            shares = [record["by_category"].get(name) for name in names]
            right = ["-" if not one or not one["n"] else f"{100 * one['accuracy']:.1f}" for one in shares]
            own = outcome.cell.hash
            gaps = [
                _points(pairs[base][own].overall) + "†" * (own in sure[base]) if own in pairs[base] else ""
                for base in bases
            ]
            medians = [record.get("costs", {}).get(name) for name in measures]
            costs_there = ["-" if one is None else f"{one['median']:.3g}" for one in medians]
            lines.append(
                [line_name(outcome.cell, axis), *right, as_score(record["overall"]), *gaps, *costs_there]
            )
        blocks.append(
            f"### {escape(f'{axis}={place}' if place else f'Without {axis}')}\n\n{table(head, lines)}"
        )
    return "\n\n".join(blocks)


def _sure(pairs: Mapping[str, Comparison]) -> set[str]:
    """The cells whose difference over all questions holds with Holm's correction over all cells."""
    adjusted = holm([found.overall.p_clustered for found in pairs.values()])
    return {own for own, p in zip(pairs, adjusted, strict=True) if p < 0.05}


def differences(done: Sequence[Outcome], pairs: Mapping[str, Comparison], baseline: str) -> str:
    """Paired differences from a baseline, by category and of all.

    Args:
        done: outcomes.
        pairs: hash of a cell -> it against the baseline.
        baseline: its name; empty where there is one alone.
    """
    compared = [outcome for outcome in done if outcome.cell.hash in pairs]
    names = list(dict.fromkeys(name for each in pairs.values() for name in each.by_category))
    names = [*(names if len(names) > 1 else []), "all"]
    every = [
        {name: part for name in names if (part := _part(pairs[outcome.cell.hash], name)) is not None}
        for outcome in compared
    ]
    tests = [(i, name) for i, each in enumerate(every) for name in each]
    found = [part for each in every for part in each.values()]
    adjusted = dict(zip(tests, holm([part.p_clustered for part in found]), strict=True))
    many = len(tests) > _FEW
    lines = [
        {
            name: _points(each.get(name)) + "†" * (many and adjusted.get((i, name), 1.0) < 0.05)
            for name in names
        }
        for i, each in enumerate(every)
    ]
    text = (
        f"Difference from {escape(baseline or 'the baseline')}, in points: the same questions in pairs, with "
        "95 % intervals clustered by video; bold where the interval leaves out zero"
    )
    text += (
        f", which some {round(0.05 * len(tests))} of these {len(tests)} would if no method differed; "
        "† where the difference also holds with Holm's correction over all of them."
        if many
        else "."
    )
    return _laid_out(text, compared, lines)


def costs(done: Sequence[Outcome], measures: Sequence[str]) -> str:
    """Median and 95th percentile of each measure."""
    lines = [
        {MEASURES[name][0]: _cost(record.get("costs", {}).get(name)) for name in measures}
        for record in _records(done)
    ]
    return _laid_out("At the questions: median (95th percentile).", done, lines)


def kinds(done: Sequence[Outcome]) -> str:
    """Accuracy by kind of question: kinds down, cells across, as there may be many kinds."""
    names = _names(done, "by_kind")
    if len(names) < 2 or set(names) == set(_names(done, "by_category")) or len(done) > 12:
        return ""
    lines = [[name, *(as_score(record["by_kind"].get(name)) for record in _records(done))] for name in names]
    head = ["kind", *(outcome.cell.label or "all" for outcome in done)]
    return "By kind of question.\n\n" + table(head, lines)


def averages(done: Sequence[Outcome]) -> str:
    """Means over tasks and categories, as benchmarks define them."""
    names = list(dict.fromkeys(name for record in _records(done) for name in record.get("averages", {})))
    if not names:
        return ""
    lines = [
        {f"mean of {name}": _average(record.get("averages", {}).get(name)) for name in names}
        for record in _records(done)
    ]
    text = (
        "Means of accuracies (%) over tasks and categories. Where a benchmark defines its figures so, these "
        "are to be set beside published numbers, and not those of the first table."
    )
    return _laid_out(text, done, lines)


def losses(done: Sequence[Outcome], *, drawn: bool) -> str:
    """Accuracy when asked again, and its change."""
    names = list(dict.fromkeys(name for record in _records(done) for name in record["by_delay"]))
    blocks = []
    for name in names:
        found = [record["by_delay"].get(name, {}) for record in _records(done)]
        delays = sorted({delay for each in found for delay in each}, key=float)
        lines = [{f"{delay} s later": _loss(each.get(delay)) for delay in delays} for each in found]
        blocks.append(_laid_out(f"Of {escape(name)}:", done, lines))
    picture = "![Change of accuracy by delay](losses.png)\n\n" if drawn else ""
    few = f"; points of fewer than {FEW} are not drawn" if drawn else ""
    text = (
        f"## Asked again\n\n{picture}Per cent right when asked again, and the change from the same questions "
        "at their own time, in points (95 %, paired). The longer the delay, the fewer the questions whose "
        f"answer still holds{few}."
    )
    return "\n\n".join([text, *blocks])


def matched_memory(
    found: Mapping[str, Sequence[Line]], sizes: Mapping[str, float], bases: Sequence[str]
) -> str:
    """Accuracy of each method within the same bytes.

    Args:
        found: a size's name -> lines of the methods within it.
        sizes: a size's name -> bytes.
        bases: methods that the others are compared with.
    """
    blocks = []
    for title, lines in found.items():
        names = list(dict.fromkeys(line.name for line in lines if line.name))
        names = names if len(names) > 1 else []
        known = [base for base in bases if any(base in line.gaps for line in lines)]
        head = ["method", *names, "all", *(f"less {base}" for base in known), "holds (kB)"]
        rows = []
        for whole in (line for line in lines if not line.name):
            own = {line.name: _percent(*line.share) for line in lines if line.method == whole.method}
            gaps = [_gap(*whole.gaps[base]) if base in whole.gaps else "" for base in known]
            shares = [own.get(name, "-") for name in (*names, "")]
            rows.append([whole.method, *shares, *gaps, f"{whole.held / 1e3:.0f}"])
        blocks.append(
            f"Within what {escape(title)} holds, {sizes[title] / 1e3:.0f} kB:\n\n" + table(head, rows)
        )
    text = (
        "## At the same bytes\n\nThe most a stream holds at any question: memory, what the method keeps "
        "beside it, and archive. Between two neighbouring budgets, one below a size and one above, each "
        "question counts by both answers, weighted by the logarithm of the bytes; a method all of whose "
        "budgets hold less counts by the one that holds most, and one all of whose budgets hold more is left "
        "out. Differences in points over all questions, in pairs, with 95 % intervals clustered by video; "
        "bold where the interval leaves out zero."
    )
    return "\n\n".join([text, *blocks]) if blocks else ""


def unscored(record: Mapping[str, Any] | None) -> list[str]:
    """Which open-ended answers of a cell have no verdict, in sentences."""
    found = (record or {}).get("verdicts")
    counts = Verdicts(found["n"], found["waiting"], found["unreadable"]) if found else Verdicts()
    return counts.notes("the same command with")


def _laid_out(
    text: str, done: Sequence[Outcome], lines: Sequence[_Line], last: tuple[str, _Line] | None = None
) -> str:
    """A line a cell; or, where they are many, a table a column with the numeric setting across."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    cells = [outcome.cell for outcome in done]
    axis = spread_of(cells)
    if axis is None:
        keys = list(dict.fromkeys(key for cell in cells for key in values_of(cell))) or ["cell"]
        rows = [
            [*(values_of(cell).get(key, "") for key in keys), *(line.get(name, "") for name in columns)]
            for cell, line in zip(cells, lines, strict=True)
        ]
        if last is not None:
            rows.append([*([""] * (len(keys) - 1)), last[0], *(last[1].get(name, "") for name in columns)])
        return f"{text}\n\n{table([*keys, *columns], rows)}"
    places = places_of(cells, axis)
    blocks = []
    for name in columns:
        found: dict[str, dict[str, str]] = {}
        for cell, line in zip(cells, lines, strict=True):
            found.setdefault(line_name(cell, axis), {})[cell.values.get(axis, "")] = line.get(name, "")
        heading = f"{name} ({last[0].strip('*')}: {last[1][name]})" if last and name in last[1] else name
        head = [axis, *(place or "none" for place in places)]
        rows = [[row, *(own.get(place, "") for place in places)] for row, own in found.items()]
        blocks.append(
            f"**{escape(heading)}**\n\n{table(head, rows)}" if len(columns) > 1 else table(head, rows)
        )
    return "\n\n".join([text, *blocks])


def _records(done: Sequence[Outcome]) -> list[Mapping[str, Any]]:
    return [outcome.record or {} for outcome in done]


def _names(done: Sequence[Outcome], group: str) -> list[str]:
    return list(dict.fromkeys(name for record in _records(done) for name in record[group]))


def _published(value: Any) -> dict[str, float]:
    if value is None:
        return {}
    return (
        {"all": float(value)} if not isinstance(value, Mapping) else {k: float(v) for k, v in value.items()}
    )


def as_score(score: Mapping[str, Any] | None) -> str:
    """A score's record with its interval, per cent; a dash where nothing was asked."""
    if score is None or not score["n"]:
        return "-"
    return _percent(score["accuracy"], Interval(score["low"], score["high"], score.get("doubtful", False)))


def fewer(score: Mapping[str, Any] | None, first: Mapping[str, Any] | None) -> str:
    """How many questions a cell has, where it is another number than the last line says."""
    return f", n {score['n']}" if score and score["n"] and (not first or first["n"] != score["n"]) else ""


def _asked(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    chance = "-" if score["chance"] is None else f"{100 * score['chance']:.0f}"
    return f"{score['n']}; {chance}"


def _part(comparison: Comparison, name: str) -> Difference | None:
    return comparison.overall if name == "all" else comparison.by_category.get(name)


def _points(found: Difference | None) -> str:
    return "-" if found is None else _gap(found.difference, found.interval)


def _gap(value: float, interval: Interval) -> str:
    text = f"{100 * value:+.1f} ({interval.span('+.1f')})"
    return Markdown(f"**{text}**") if interval.low > 0 or interval.high < 0 else text


def _percent(value: float, interval: Interval) -> str:
    low, high, doubtful = interval
    return f"{100 * value:.1f} ({100 * low:.0f}-{100 * high:.0f}{'*' * doubtful})"


def _cost(cost: Mapping[str, float] | None) -> str:
    return "-" if cost is None else f"{cost['median']:.3g} ({cost['high']:.3g})"


def _average(average: Mapping[str, float] | None) -> str:
    if average is None:
        return "-"
    ends = f"{100 * average['low']:.0f}-{100 * average['high']:.0f}"
    return f"{100 * average['value']:.1f} ({ends}){'*' * bool(average.get('doubtful'))}"


def _loss(loss: Mapping[str, Any] | None) -> str:
    if loss is None:
        return "-"
    change = loss["change"]
    ends = Interval(change["low"], change["high"], change.get("doubtful", False)).span("+.0f")
    return f"{100 * loss['accuracy']:.1f}; {100 * change['difference']:+.1f} ({ends}), n {loss['n']}"
