"""The first comparison of memory policies: Wanderer's test split, the embedded model, several budgets.

``python -m benchmarks.policies`` asks every question under every policy and writes
``benchmarks/results/policies.csv``, ``docs/policies.md`` and its figures. Rows of single questions are kept
in ``runs/policies``: a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from hermes.evaluation import Score, Summary, eval_config, evaluate
from hermes.evaluation.summary import age_bin, grouped

LENGTHS = (64, 128, 256)
SHARES = (0.1, 0.25, 0.5)
TOKENS_PER_FRAME = 4
POLICIES = ("fifo", "recent", "uniform", "random", "hermes", "hermes_release", "hermes_shared")
CATEGORIES = ("real-time", "backward", "sequence", "hallucination", "counting")
# Colours that stay apart for every reader (Okabe and Ito), and marks that stay apart in grey.
STYLES = {
    "full": ("#000000", "s", "-"),
    "fifo": ("#0072B2", "v", "--"),
    "recent": ("#56B4E9", "^", ":"),
    "uniform": ("#009E73", "o", "-"),
    "random": ("#777777", "x", ":"),
    "hermes": ("#D55E00", "D", "-"),
    "hermes_release": ("#E69F00", "P", "--"),
    "hermes_shared": ("#CC79A7", "*", "-"),
}


class Cell(NamedTuple):
    """One run: a policy at a share of the tokens, on streams of a length (s)."""

    length: int
    policy: str
    share: float

    @property
    def budget(self) -> int:
        """Tokens."""
        return round(self.share * self.length * TOKENS_PER_FRAME)

    def settings(self, streams: int) -> list[str]:
        """As on the command line of ``hermes eval``."""
        own = [] if self.policy == "full" else [f"policy.budget={self.budget}"]
        return [
            f"policy={self.policy}",
            *own,
            "data.split=test",
            f"data.streams={streams}",
            f"data.world.length={self.length}",
            # Sixteen visits in every stream, however long: otherwise places come again and again, and what
            # is asked about the past was seen a moment ago.
            f"data.world.scene={self.length // 16}",
            "generation.max_new_tokens=4",
            "threads=1",
        ]


def cells() -> list[Cell]:
    """Every run of the table, the longest first."""
    out = []
    for length in sorted(LENGTHS, reverse=True):
        out.append(Cell(length, "full", 1.0))
        out += [Cell(length, policy, share) for policy in POLICIES for share in SHARES]
    return out


def run(cell: Cell, streams: int, folder: Path) -> Summary:
    """One cell, or what is missing of it."""
    name = f"{cell.length}s-{cell.policy}-{cell.share:g}"
    return evaluate(eval_config(cell.settings(streams)), folder / name)


def rows(found: dict[Cell, Summary]) -> list[dict[str, Any]]:
    """The table in long form."""
    out = []
    for cell, summary in found.items():
        about = {"length_s": cell.length, "policy": cell.policy, "share": cell.share, "budget": cell.budget}
        for group, name, score in grouped(summary.record()):
            counts = {key: score[key] for key in ("n", "right")}
            shares = {key: round(score[key], 4) for key in ("accuracy", "low", "high", "chance")}
            out.append({**about, "group": group, "name": name, **counts, **shares})
    return out


def _cell(score: Score) -> str:
    low, high = score.interval
    return f"{100 * score.accuracy:.0f} ({100 * low:.0f}-{100 * high:.0f})"


def page(found: dict[Cell, Summary], streams: int, about: str) -> str:
    """The table for readers."""
    parts = [_HEAD.format(streams=streams, about=about)]
    for length in LENGTHS:
        tokens = length * TOKENS_PER_FRAME
        parts += [f"\n## {length} s, {tokens} tokens in all\n", _table(found, length)]
    parts += ["\n## By age of the evidence\n", _AGE_HEAD]
    for length in LENGTHS:
        parts += [f"\n{length} s:\n", _ages(found, length)]
    parts += ["\n## By kind, 64 s, 25 %\n", _kinds(found)]
    return "\n".join(parts) + "\n"


def _table(found: dict[Cell, Summary], length: int) -> str:
    lines = _header(["tokens kept", "policy", *CATEGORIES, "all"])
    for cell in sorted(found, key=lambda c: (-c.share, list(STYLES).index(c.policy))):
        if cell.length == length:
            summary = found[cell]
            scores = [*(summary.by_category[name] for name in CATEGORIES), summary.overall]
            lines.append(_line(f"{100 * cell.share:.0f} %", f"`{cell.policy}`", *map(_cell, scores)))
    first = found[Cell(length, "full", 1.0)]
    scores = [*(first.by_category[name] for name in CATEGORIES), first.overall]
    asked = [f"{score.n}; {100 * (score.chance or 0):.0f}" for score in scores]
    return "\n".join([*lines, _line("", "*questions; chance*", *asked)])


def _header(names: Sequence[str]) -> list[str]:
    return [_line(*names), "|---" * len(names) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _ages(found: dict[Cell, Summary], length: int) -> str:
    runs = {
        c.policy: found[c].by_age["backward"] for c in found if c.length == length and c.share in (0.25, 1)
    }
    bins = [age_bin(2**i) for i in range(10)]
    bins = [name for name in bins if any(name in ages for ages in runs.values())]
    lines = _header(["policy", *(f"{name} s" for name in bins)])
    for policy in STYLES:
        shown = (_cell(runs[policy][name]) if name in runs[policy] else "-" for name in bins)
        lines.append(_line(f"`{policy}`", *shown))
    return "\n".join(lines)


def _kinds(found: dict[Cell, Summary]) -> str:
    runs = {c.policy: found[c].by_kind for c in found if c.length == 64 and c.share in (0.25, 1)}
    names = [policy for policy in STYLES if policy in runs]
    lines = _header(["kind", *(f"`{name}`" for name in names), "chance"])
    for kind, score in runs["full"].items():
        shown = [_cell(runs[name][kind]) for name in names]
        lines.append(_line(f"{kind} ({score.n})", *shown, f"{100 * (score.chance or 0):.0f}"))
    return "\n".join(lines)


def plot(found: dict[Cell, Summary], path: Path) -> None:
    """Backward accuracy against the share of tokens kept, and against the age of the evidence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, len(LENGTHS), sharey=True)
    for column, length in enumerate(LENGTHS):
        full = found[Cell(length, "full", 1.0)]
        top, bottom = axes[0, column], axes[1, column]
        line = full.by_category["backward"].accuracy
        top.axhline(100 * line, color="black", linewidth=1, label="full")
        for policy in POLICIES:
            points = [
                (100 * share, found[Cell(length, policy, share)].by_category["backward"]) for share in SHARES
            ]
            _draw(top, policy, points)
        for policy in ("full", *POLICIES):
            cell = Cell(length, policy, 1.0 if policy == "full" else 0.25)
            ages = found[cell].by_age["backward"]
            _draw(
                bottom, policy, [(1.5 * float(age.partition("-")[0]), score) for age, score in ages.items()]
            )
        top.set(title=f"streams of {length} s", xlabel="tokens kept (%)", xscale="log")
        top.set_xticks(
            [100 * share for share in SHARES], [f"{100 * share:g}" for share in SHARES], minor=False
        )
        top.minorticks_off()
        bottom.set(xlabel="age of the evidence (s), 25 % kept", xscale="log")
        bottom.set_xticks([2, 8, 32, 128], ["2", "8", "32", "128"])
        bottom.minorticks_off()
    for row in axes:
        row[0].set(ylabel="backward questions right (%)", ylim=(0, 102))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=130)


def _draw(axes: Any, policy: str, points: list[tuple[float, Score]]) -> None:
    colour, mark, line = STYLES[policy]
    points = [(x, score) for x, score in points if x > 0 and score.n >= 10]
    middle = [100 * score.accuracy for _, score in points]
    ends = [score.interval for _, score in points]
    below = [value - 100 * low for value, (low, _) in zip(middle, ends, strict=True)]
    above = [100 * high - value for value, (_, high) in zip(middle, ends, strict=True)]
    axes.errorbar(
        [x for x, _ in points],
        middle,
        yerr=[below, above],
        color=colour,
        marker=mark,
        linestyle=line,
        linewidth=1.4,
        elinewidth=0.6,
        label=policy,
    )


def main() -> None:
    """Run what is missing, then write the table, the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--streams", type=int, default=50, help="of each length")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--runs", type=Path, default=Path("runs/policies"), help="rows of single questions")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/policies.csv"))
    parser.add_argument("--page", type=Path, default=Path("docs/policies.md"))
    given = parser.parse_args()
    found: dict[Cell, Summary] = {}
    todo = cells()
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(given.jobs, mp_context=context) as pool,
        Progress(console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("runs", total=len(todo))
        waiting = {cell: pool.submit(run, cell, given.streams, given.runs) for cell in todo}
        for cell, future in waiting.items():
            found[cell] = future.result()
            bar.advance(task)
    manifest = json.loads((given.runs / "64s-full-1" / "manifest.json").read_text(encoding="utf-8"))
    versions = manifest["versions"]
    about = (
        f"Model `{manifest['weights']}`, seed {manifest['seed']}, PyTorch {versions['torch']}, transformers "
        f"{versions['transformers']}, {manifest['device_name']}, {manifest['attention']}."
    )
    lines = rows(found)
    with given.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    given.page.write_text(page(found, given.streams, about), encoding="utf-8")
    plot(found, given.page.with_suffix(".png"))
    sys.stdout.write(f"{given.csv}\n{given.page}\n")


_HEAD = """# Memory policies on Wanderer

The embedded model on Wanderer's test split: open questions in the second half of streams 2, 4 and 8 times as
long as any it was trained on, {streams} of each length. Per cent of the answers that are right, with 95 %
intervals (clustered by stream).

{about}

Every number comes from one command: `python -m benchmarks.policies`. Single cells: `hermes eval
policy=hermes policy.budget=64 data.streams=50 data.world.length=64 data.world.scene=4`.
[All numbers](../benchmarks/results/policies.csv).

![Backward accuracy against budget and age of evidence](policies.png)

Streams have sixteen visits each, of 4, 8 or 16 s (training: 3 to 5 s), so that longer streams ask about older
evidence. `recent` keeps raw frames, as many as the tokens would fill, and encodes them anew at each question.
`hermes_shared` is `hermes` with one ranking of tokens for all layers (`policy.selector.rank=all`)."""

_AGE_HEAD = (
    "Backward questions, 25 % of the tokens: how long before the question the evidence was last on screen."
)


if __name__ == "__main__":
    main()
