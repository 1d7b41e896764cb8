"""A run as a page: tables of accuracies, plots beside them, and what it was run with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hermes.errors import InputError
from hermes.evaluation.reports.run_plots import plot_accuracy, plot_ages, plot_calibration, plot_times
from hermes.evaluation.reports.sweep_plots import plot_losses
from hermes.evaluation.results.journal import Broken, read_broken, read_run
from hermes.evaluation.results.rows import AnswerRow
from hermes.evaluation.results.run_folder import settings_of
from hermes.evaluation.scoring.measures import MEASURES
from hermes.evaluation.scoring.metrics import calibration_error, unreadable
from hermes.evaluation.scoring.summary import Score, Summary, score, summarise
from hermes.files import make_folder
from hermes.pages.markdown import code, escape, fenced, table, write_page
from hermes.reading import lies_in

__all__ = ["calibration", "run_with", "write_report"]

_BINS = 10


def write_report(folder: str | Path) -> Path:
    """Write ``report.md`` and its plots (``plots/*.png``) into the folder of a run.

    Nothing in it depends on when it is written.

    Args:
        folder: of a run of ``hermes eval``, also of one that is not finished.

    Returns:
        The page.

    Raises:
        InputError: no run in the folder, or a folder that cannot be written to.
    """
    folder = Path(folder)
    rows, manifest = read_run(folder)
    settings_of(manifest, str(folder / "manifest.json"))
    broken = read_broken(folder)
    plots, page = folder / "plots", folder / "report.md"
    if plots.is_symlink() and not lies_in(plots, folder):
        raise InputError(f"{plots}: a link that leads out of the run's folder; needed: a folder")
    make_folder(plots)
    return write_page(page, _parts(folder, rows, broken, manifest, plots))


def calibration(rows: Iterable[AnswerRow]) -> dict[str, tuple[float, Score]]:
    """Mean confidence and score of multiple-choice answers, by tenths of confidence that have answers.

    Source: Guo et al., arXiv 1706.04599; the confidence is the probability of the option chosen.
    """
    bins: dict[int, list[tuple[float, AnswerRow]]] = {}
    for row in rows:
        share = None if row.choice is None else (row.probabilities or {}).get(row.choice)
        if share is not None and row.correct is not None:
            bins.setdefault(min(int(share * _BINS), _BINS - 1), []).append((share, row))
    found = {}
    for place, part in sorted(bins.items()):
        mean = sum(share for share, _ in part) / len(part)
        found[f"{place / _BINS:.1f}-{(place + 1) / _BINS:.1f}"] = mean, score([row for _, row in part])
    return found


def _parts(
    folder: Path,
    rows: Sequence[AnswerRow],
    broken: Sequence[Broken],
    manifest: Mapping[str, Any],
    plots: Path,
) -> list[str]:
    summary = summarise(rows, broken)
    # What was asked again has a part of its own.
    rows = [row for row in rows if not row.delay_s]
    return [
        f"# {escape(folder.resolve().name)}\n\n{_headline(rows, summary)}\n\n{_METHOD}",
        _mixed(manifest),
        _broken(summary),
        _accuracy(summary, plots),
        _judged(summary, manifest),
        _averages(summary, manifest),
        _ages(summary, plots),
        _delays(summary, plots),
        _times(rows, plots),
        _costs(summary),
        _calibrated(rows, plots),
        _settings(manifest),
    ]


def _headline(rows: Sequence[AnswerRow], summary: Summary) -> str:
    overall = summary.overall
    videos = len(overall.by_video)
    text = f"{overall.n} questions scored, in {videos} video{'s' * (videos != 1)}"
    if overall.n:
        text = f"**{100 * overall.accuracy:.1f} %** right ({overall.span}); {text}"
    if summary.unscored:
        text += f"; {summary.unscored} of {len(rows)} have no answer in the benchmark and are not scored"
    lost = unreadable(rows)
    if lost is not None:
        text += f"; {100 * lost:.1f} % of the multiple-choice answers name no option when read as text"
    return " ".join([f"{text}.", *(f"{note}." for note in summary.verdicts.notes())])


def _mixed(manifest: Mapping[str, Any]) -> str:
    """In what a run went on with what had not made it."""
    lines = []
    for one in manifest.get("mixed", []):
        found = {**_pairs(one.get("differences")), **_pairs(one.get("settings"))}
        said = "; ".join(
            f"{escape(name)}: {escape(was)}, then {escape(now)}" for name, (was, now) in found.items()
        )
        lines.append(f"- after {escape(one.get('after_rows'))} answers: {said}")
    head = "**Not one run.** It was gone on with, on demand, with what had not made its first part:"
    return "\n\n".join([head, "\n".join(lines)]) if lines else ""


def _pairs(found: Any) -> dict[str, tuple[Any, Any]]:
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: (two[0], two[1]) for name, two in pairs if isinstance(two, list) and len(two) == 2}


def _broken(summary: Summary) -> str:
    lines = [f"- {escape(text)}" for text in summary.faults]
    return "Videos that could not be read:\n\n" + "\n".join(lines) if lines else ""


def _judged(summary: Summary, manifest: Mapping[str, Any]) -> str:
    scores = summary.verdicts.scores
    if not scores:
        return ""
    judge = manifest.get("judge") or {}
    who = " ".join(str(judge[key]) for key in ("name", "model") if key in judge)
    head = f"## Judge's scores\n\nMeans of 0 to 5, given to open-ended answers by {code(who)}.\n\n"
    cells = [[name, str(s.n), f"{s.mean:.2f}", s.span] for name, s in scores.items()]
    return head + table(["category", "n", "mean", "95 % interval"], cells)


def _accuracy(summary: Summary, plots: Path) -> str:
    if not summary.overall.n:
        return ""
    shown = {**summary.by_category, "all": summary.overall}
    plot_accuracy(plots / "accuracy.png", shown)
    text = "## Accuracy\n\n![Accuracy by category](plots/accuracy.png)\n\n" + _scores("category", shown)
    if set(summary.by_kind) != set(summary.by_category):
        text += "\n\nBy kind of question:\n\n" + _scores("kind", summary.by_kind)
    return text


def _averages(summary: Summary, manifest: Mapping[str, Any]) -> str:
    if not summary.averages:
        return ""
    cells = [["questions", f"{100 * summary.overall.accuracy:.1f}", summary.overall.span]]
    cells += [[name, f"{100 * each.value:.1f}", each.span] for name, each in summary.averages.items()]
    own = manifest.get("average")
    note = f" The benchmark's own figure is the one over {escape(own)}." if own else ""
    head = f"## Averages\n\nMeans of accuracies, with intervals over videos.{note}\n\n"
    return head + table(["mean over", "right %", "95 % interval"], cells)


def _ages(summary: Summary, plots: Path) -> str:
    if not summary.by_age:
        return ""
    aged = {f"{name}, {age} s": s for name, ages in summary.by_age.items() for age, s in ages.items()}
    plot = ""
    # A single point says no more than the table.
    drawn = {name: ages for name, ages in summary.by_age.items() if len(ages) > 1}
    if drawn:
        plot_ages(plots / "age.png", drawn)
        plot = "![Accuracy by age of the evidence](plots/age.png)\n\n"
    head = "## Age of the evidence\n\nHow long before the question the evidence was last on screen.\n\n"
    return head + plot + _scores("category, age", aged)


def _delays(summary: Summary, plots: Path) -> str:
    if not summary.by_delay:
        return ""
    drawn = plot_losses({"": summary.record()["by_delay"]}, plots / "delay.png")
    cells = []
    for name, losses in summary.by_delay.items():
        for delay, loss in losses.items():
            change = 100 * (loss.now.accuracy - loss.before.accuracy)
            before, now = (f"{100 * each.accuracy:.1f}" for each in (loss.before, loss.now))
            ends = loss.change.span("+.1f")
            cells.append([name, delay, str(loss.now.n), before, now, f"{change:+.1f}", ends])
    head = (
        "## Asked again\n\nThe same questions later, where the answer still holds; the change is paired.\n\n"
    )
    head += "![Change of accuracy by delay](plots/delay.png)\n\n" if drawn else ""
    names = ["category", "delay (s)", "n", "right % at first", "right % later", "change", "95 % interval"]
    return head + table(names, cells)


def _costs(summary: Summary) -> str:
    cells = [
        [MEASURES[name][0], f"{cost.median:.4g}", f"{cost.mean:.4g}", f"{cost.high:.4g}"]
        for name, cost in summary.costs.items()
    ]
    head = (
        "## Costs\n\nAt the questions. Lag: how long after one all that had arrived was in the memory, "
        "were the stream live on this machine.\n\n"
    )
    return head + table(["", "median", "mean", "95 %"], cells) if cells else ""


def _times(rows: Sequence[AnswerRow], plots: Path) -> str:
    times = np.array([row.ttft_ms for row in rows if row.ttft_ms is not None], dtype=np.float64)
    if not times.size:
        return ""
    plot_times(plots / "ttft.png", times)
    shares = (0, 25, 50, 75, 95, 99, 100)
    values = [f"{value:.1f}" for value in np.percentile(times, shares)]
    names = [{0: "least", 50: "median", 100: "most"}.get(share, f"{share} %") for share in shares]
    shown = table(["answers", *names], [[str(times.size), *values]])
    head = "## Time to first token\n\nFrom a question to the first token of its answer, ms.\n\n"
    return head + "![Time to first token](plots/ttft.png)\n\n" + shown


def _calibrated(rows: Sequence[AnswerRow], plots: Path) -> str:
    bins = calibration(rows)
    error = calibration_error(rows, _BINS)
    if error is None:
        return ""
    plot_calibration(plots / "calibration.png", list(bins.values()))
    head = (
        "## Calibration\n\nMultiple-choice answers by the probability of the option chosen: of a calibrated "
        f"model, as many are right. Expected calibration error: {100 * error:.1f} points.\n\n"
        "![Calibration](plots/calibration.png)\n\n"
    )
    cells = [
        [name, str(s.n), f"{100 * mean:.1f}", f"{100 * s.accuracy:.1f}", s.span]
        for name, (mean, s) in bins.items()
    ]
    return head + table(["confidence", "n", "mean confidence %", "right %", "95 % interval"], cells)


def _settings(manifest: Mapping[str, Any]) -> str:
    chosen = settings_of(manifest)
    about = {}
    for key in ("data.name", "policy.name", "policy.budget", "backbone.family", "backbone.checkpoint"):
        group, _, name = key.partition(".")
        part = chosen.get(group)
        about[key] = part.get(name) if isinstance(part, dict) else None
    prompts = manifest.get("prompts") or {}
    more = {f"prompt {name}": f"sha256 {hashed}" for name, hashed in prompts.items()}
    judge = manifest.get("judge") or {}
    more |= {f"judge.{key}": value for key, value in judge.items() if key != "prompt"}
    return run_with(manifest, about, more)


def run_with(
    manifest: Mapping[str, Any],
    before: Mapping[str, Any] = MappingProxyType({}),
    after: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """The part of a page that says what a run was made with, from its manifest.

    Args:
        manifest: of the run.
        before, after: more lines of the table, above and below those that every run has.
    """
    keys = (
        "weights",
        "fingerprint",
        "dtype",
        "seed",
        "device",
        "device_name",
        "threads",
        "attention",
        "platform",
        "config_hash",
    )
    versions = ", ".join(f"{name} {number}" for name, number in (manifest.get("versions") or {}).items())
    about = {**before, **{key: manifest.get(key) for key in keys}, "versions": versions, **after}
    shown = [[key, str(value)] for key, value in about.items() if value not in (None, "")]
    settings = str(manifest.get("settings", "")).strip()
    return f"## Run with\n\n{table(['', ''], shown)}\n\nAll settings:\n\n{fenced(settings, 'yaml')}"


def _scores(head: str, scores: Mapping[str, Score]) -> str:
    cells = [
        [
            name,
            str(s.n),
            str(len(s.by_video)),
            f"{100 * s.accuracy:.1f}",
            s.span,
            s.method,
            "-" if s.chance is None else f"{100 * s.chance:.0f}",
        ]
        for name, s in scores.items()
    ]
    return table([head, "n", "videos", "right %", "95 % interval", "method", "chance %"], cells)


_METHOD = """Intervals are 95 %. `clustered`: the videos are the sample, as questions of one video are no
independent trials; `wilson`: one question a video. A star: few videos and few answers of one kind, so that
the interval may be too narrow. Chance: the accuracy of a guess."""
