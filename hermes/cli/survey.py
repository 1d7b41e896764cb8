"""`hermes validate data=...`: what a benchmark holds, and what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from hermes.cli.output import err
from hermes.config import config_hash, resolved_yaml
from hermes.data.benchmark import Survey
from hermes.evaluation.running.settings import eval_config

# Of each kind of fault.
_SHOWN = 10


def surveyed(overrides: Sequence[str], everything: bool) -> bool:
    """Print settings and findings of an evaluation; whether anything is wrong.

    Findings are comments after the YAML, so that the whole can still be read as such.
    """
    config = eval_config(overrides)
    with Progress(
        TextColumn("videos"), BarColumn(), MofNCompleteColumn(), console=err(), transient=True
    ) as bar:
        task = bar.add_task("", total=None)
        found = config.data.survey(lambda done, total: bar.update(task, completed=done, total=total))
    sys.stdout.write(f"# config_hash: {config_hash(config)}\n{resolved_yaml(config)}")
    sys.stdout.write("".join(f"# {line}\n" for line in _lines(found, everything)))
    return bool(found.problems)


def _lines(found: Survey, everything: bool) -> list[str]:
    parts = f" in {found.clips} parts" if found.clips > found.videos else ""
    left = f", {found.questions - found.asked} of which cannot be asked" * (found.asked < found.questions)
    lines = [f"{found.videos} videos{parts}, {found.questions} questions{left}", *found.notes]
    by_kind: dict[str, list[str]] = {}
    for problem in found.problems:
        # One line, also where a text of the file has several.
        text = " ".join(f"{problem.where}: {problem.what}".split())
        by_kind.setdefault(problem.kind, []).append(f"  {text}")
    for kind, texts in by_kind.items():
        shown = texts if everything else texts[:_SHOWN]
        rest = len(texts) - len(shown)
        lines += [f"{kind} ({len(texts)}):", *shown, *([f"  and {rest} more: --all"] if rest else [])]
    return lines if found.problems else [*lines, "nothing is wrong"]
