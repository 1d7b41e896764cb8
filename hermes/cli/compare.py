"""`hermes compare`: two runs on the same questions, and whether their difference is more than noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from hermes.cli.output import out

if TYPE_CHECKING:
    from hermes.evaluation.scoring.compare import Comparison


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run of hermes eval.", metavar="RUN_A")],
    b: Annotated[Path, typer.Argument(help="Folder of another, on the same questions.", metavar="RUN_B")],
    as_json: Annotated[
        bool, typer.Option("--json", help="The comparison as one JSON object on stdout, and nothing else.")
    ] = False,
) -> None:
    """Compare two runs question by question: difference, 95 % interval, and what it means.

    The videos are the sample: an interval takes in that questions of one video are no independent trials.
    A run that is not finished is compared on what it has.

    Examples:
    \b
    hermes compare runs/eval/wanderer-fifo-64-1a2b3c4d runs/eval/other
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    from hermes.evaluation.scoring.compare import compare_runs

    found = compare_runs(a, b)
    if as_json:
        out().file.write(json.dumps({"a": str(a), "b": str(b), **found.record()}, allow_nan=False) + "\n")
        return
    for name, folder in (("A", a), ("B", b)):
        out().print(Text.assemble((f"{name}  ", "bold"), str(folder)), soft_wrap=True)
    out().print()
    _show(found)


def _show(found: Comparison) -> None:
    parts = {} if len(found.by_category) == 1 else found.by_category
    table = _table("", "n", "videos", "A %", "B %", "B - A", "95 % interval", "McNemar p", "detectable")
    later = {f"{delay} s later": part for delay, part in found.by_delay.items()}
    for name, part in {**parts, "all": found.overall, **later}.items():
        table.add_row(
            Text(name),
            str(part.n),
            str(part.videos),
            f"{100 * part.right_a / part.n:.1f}",
            f"{100 * part.right_b / part.n:.1f}",
            f"{100 * part.difference:+.1f}",
            part.interval.span("+.1f"),
            f"{part.p:.2g}",
            f"{100 * part.detectable:.1f}" if part.detectable < 1 else "-",
        )
    out().print(table)
    out().print()
    for name, part in parts.items():
        if part.told:
            out().print(Text.assemble((f"{name}: ", "bold"), part.sentence), soft_wrap=True)
    out().print(Text(found.overall.sentence, "bold"), soft_wrap=True)
    out().print()
    low, high = found.overall.bootstrap
    out().print(
        "Differences in points. Intervals are clustered by video, and one in twenty misses by chance; the "
        f"paired bootstrap over videos gives {100 * low:+.1f} to {100 * high:+.1f} overall. McNemar's test "
        "takes questions as independent. Detectable: the difference that would be found 4 times in 5.",
        style="dim",
        soft_wrap=True,
    )
    if any(part.interval.doubtful for part in (*parts.values(), found.overall, *later.values())):
        out().print("* few videos, few questions answered differently: may be too narrow", style="dim")
    for name, count in (("A", found.unpaired_a), ("B", found.unpaired_b)):
        if count:
            out().print(f"{count} questions of {name} are not in the other run, and left out")
    if found.unscored:
        out().print(f"{found.unscored} questions have no answer in the benchmark, or no verdict in both runs")
    if "judge.identity" in found.settings:
        out().print("The two have different judges: what differs may be the judges, not the answers.")
    out().print()
    if not found.settings:
        out().print("The two runs have the same settings.")
        return
    settings = _table("what differs", "A", "B")
    own = [key for key, values in found.settings.items() if None in values and _of_another(key, found)]
    for key, values in found.settings.items():
        if key not in own:
            settings.add_row(Text(key), *(Text(_value(value)) for value in values))
    out().print(settings)
    if own:
        out().print(f"and {len(own)} settings of parts that only one of them has: --json names them")


def _of_another(key: str, found: Comparison) -> bool:
    """Whether a part that a setting belongs to is not the same in both, such as the policy."""
    names = key.split(".")
    return any(".".join([*names[:depth], "name"]) in found.settings for depth in range(1, len(names)))


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place and len(names) > 3 else "left")
    return table


def _value(value: Any) -> str:
    return "-" if value is None else str(value)
