"""Many evaluations: a product over settings, one folder a cell, resumable, several at a time."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hermes.config import experiment_extras
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.evaluation.judging import judge_run
from hermes.evaluation.manifest import DONE, finish
from hermes.evaluation.run import evaluate
from hermes.evaluation.settings import eval_config, settings_hash
from hermes.interrupts import noticing
from hermes.trainers import quiet_lightning

__all__ = [
    "Cell",
    "Outcome",
    "as_text",
    "cells_of",
    "is_done",
    "matching",
    "run_cell",
    "run_cells",
    "split_axes",
]

FAILED = "failed.txt"
Launch = Callable[[Sequence["Cell"], Path], Iterator["Outcome"]]
# Checks a cell's settings and says what makes two cells the same run, and who judges it.
Identify = Callable[[Sequence[str], Sequence[Path]], tuple[str, str]]
# What is done with a cell's settings in its folder, and the record of it.
Work = Callable[[Sequence[str], Path], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Cell:
    """One evaluation of a sweep.

    Source: this project.

    Attributes:
        values: what tells it from the others, setting -> value as text.
        overrides: all its settings, as on the command line of ``hermes eval``.
        hash: of its resolved settings, without the judge; the name of its folder.
        judge: the judge's identity, if there is one.
    """

    values: Mapping[str, str]
    overrides: tuple[str, ...]
    hash: str
    judge: str = ""

    @property
    def label(self) -> str:
        """Its values in a line.

        >>> Cell({"policy": "fifo", "policy.budget": "64"}, (), "").label
        'policy=fifo policy.budget=64'
        """
        return " ".join(f"{key}={value}" if value else key for key, value in self.values.items())


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: the summary's record, or why it failed (this project)."""

    cell: Cell
    record: Mapping[str, Any] | None
    error: str = ""


def split_axes(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Settings with one value, and those with several: commas outside brackets and quotes separate values.

    Source: this project.

    >>> split_axes(["seed=0", "policy=fifo,hermes", "data.kinds=[order,visited]"])
    (['seed=0', 'data.kinds=[order,visited]'], {'policy': ['fifo', 'hermes']})
    """
    fixed: list[str] = []
    axes: dict[str, list[str]] = {}
    for word in words:
        key, _, text = word.partition("=")
        values = _values(text)
        # The last word on a setting holds.
        axes.pop(key, None)
        if len(values) > 1:
            fixed = [other for other in fixed if other.partition("=")[0] != key]
            axes[key] = values
        else:
            fixed.append(word)
    return fixed, axes


def _values(text: str) -> list[str]:
    out, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0 and not quote:
            out.append("")
        else:
            out[-1] += character
    return out


def _evaluation(overrides: Sequence[str], config_dirs: Sequence[Path]) -> tuple[str, str]:
    config = eval_config(overrides, config_dirs)
    if config.trainer.devices * config.trainer.nodes > 1:
        # Lightning would start the whole sweep again in every process.
        hint = "Of a sweep every cell is one process: --jobs runs several cells at a time."
        raise SettingError("trainer.devices", config.trainer.devices, "1, and trainer.nodes 1", hint)
    return settings_hash(config), config.judge.identity if config.judge else ""


def cells_of(
    overrides: Sequence[str], config_dirs: Sequence[Path] = (), identify: Identify = _evaluation
) -> list[Cell]:
    """The cells that overrides and their experiment stand for, every setting checked.

    Source: this project. An experiment's ``sweep`` maps settings to lists of values, whose product is taken;
    its ``cells`` maps names to settings, each a cell (or, with ``sweep``, a row of it, in which a setting may
    follow a swept one: ``policy.keep: {policy.budget: {64: 0.25}}`` leaves out other budgets); cells in
    ``besides`` stand alone, and may list values of the settings swept. Values on the command line replace
    the experiment's.

    Args:
        overrides: as on the command line.
        config_dirs: folders searched after the shipped ``configs/``.
        identify: checks one cell's settings; their hash, and the judge's identity or nothing.

    Raises:
        SettingError: a wrong setting in any cell, which is named; or two cells that are the same.
    """
    fixed, axes = split_axes(overrides)
    asked = set(axes)
    extras = experiment_extras(overrides, config_dirs)
    once = {key: value for key, _, value in (word.partition("=") for word in fixed)}
    axes = {
        **{key: [as_text(v) for v in values] for key, values in extras.sweep.items() if key not in once},
        **axes,
    }
    experiment = [word for word in fixed if word.startswith("experiment=")]
    own = [word for word in fixed if not word.startswith("experiment=")]
    rows: Mapping[str, Mapping[str, Any]] = extras.cells or {"": {}}
    planned = []
    for (name, settings), values in itertools.product(rows.items(), itertools.product(*axes.values())):
        chosen = dict(zip(axes, values, strict=True))
        followed = _following(settings, {**once, **chosen})
        if followed is not None:
            planned.append((name, followed, chosen))
    for name, settings in extras.besides.items():
        listed = {
            key: [one for one in value if key not in asked or as_text(one) in axes[key]]
            for key, value in settings.items()
            # Where the axis's own values are lists, a list is one of them.
            if key in axes and isinstance(value, list) and not axes[key][0].startswith("[")
        }
        for values in itertools.product(*listed.values()):
            planned.append((name, {**settings, **dict(zip(listed, values, strict=True))}, {}))
    out: dict[str, Cell] = {}
    for name, settings, chosen in planned:
        given = [f"{key}={as_text(value)}" for key, value in settings.items()]
        words = (*experiment, *given, *(f"{key}={value}" for key, value in chosen.items()), *own)
        # A cell outside the product still has its place on the axes, so that it can be drawn there.
        placed = {
            key: as_text(settings[key]) for key in axes if key in settings and as_text(settings[key]) != name
        }
        shown = {**({name: ""} if name else {}), **(chosen or placed)}
        try:
            found = identify(words, config_dirs)
        except (SettingError, InputError) as error:
            raise InputError(f"cell {Cell(shown, (), '').label or '(the only one)'}: {error}") from error
        cell = Cell(shown, words, *found)
        if cell.hash in out:
            raise InputError(f"two cells are the same run: {out[cell.hash].label} and {cell.label}")
        out[cell.hash] = cell
    return list(out.values())


def _following(settings: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, Any] | None:
    """A row's settings, those that follow a swept one with their value for it; None where one has none."""
    out = {}
    for key, value in settings.items():
        axis = str(next(iter(value))) if isinstance(value, Mapping) and len(value) == 1 else ""
        if axis in chosen and isinstance(value[axis], Mapping):
            values = {as_text(place): own for place, own in value[axis].items()}
            if chosen[axis] not in values:
                return None
            value = values[chosen[axis]]
        out[key] = value
    return out


def as_text(value: Any) -> str:
    """A value of an experiment file as on the command line (this project)."""
    return value if isinstance(value, str) else json.dumps(value)


def matching(cells: Sequence[Cell], pattern: str) -> list[Cell]:
    """The cells whose label matches a pattern of the shell (``*``, ``?``), case ignored.

    Source: this project.

    Raises:
        SettingError: none does.

    >>> [cell.label for cell in matching([Cell({"a, 4K": ""}, (), ""), Cell({"b": ""}, (), "")], "A*")]
    ['a, 4K']
    """
    found = [cell for cell in cells if fnmatchcase(cell.label.casefold(), pattern.casefold())]
    if not found:
        labels = [cell.label for cell in cells]
        raise SettingError("--only", pattern, labels, did_you_mean(pattern, labels))
    return found


def is_done(cell: Cell, folder: Path) -> bool:
    """Whether a sweep's folder holds the outcome of a cell (this project)."""
    return record_of(cell, folder) is not None


def run_cells(cells: Sequence[Cell], folder: Path, launch: Launch) -> Iterator[Outcome]:
    """Run what is not done yet; outcomes come as they end, those found done first.

    Source: this project. A cell that fails is reported and stops no other; it is tried again next time.

    Args:
        cells: all of the sweep.
        folder: of the sweep; a cell's own is ``folder/cells/HASH``.
        launch: runs cells, such as :func:`in_processes`.
    """
    missing = []
    for cell in cells:
        done = record_of(cell, folder)
        if done is not None:
            yield Outcome(cell, done)
        else:
            missing.append(cell)
    if missing:
        yield from launch(missing, folder)


def record_of(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """What a cell of a sweep came to; None if it is not done, or not judged by its judge (this project)."""
    path = folder / "cells" / cell.hash / DONE
    record: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return record if record is not None and cell.judge in ("", record.get("judge", "")) else None


def in_processes(jobs: int) -> Launch:
    """A launcher: so many processes on this machine (this project)."""

    def launch(cells: Sequence[Cell], folder: Path) -> Iterator[Outcome]:
        lost = []
        with _pool(jobs) as pool:
            for cell, future in _completed(pool, cells, folder):
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(cell)
                else:
                    yield _outcome(cell, future)
        # A process that is killed, as for its memory, takes all others with it: whose fault it was is found
        # one by one, and two at a time may have been too much.
        for cell in lost:
            with _pool(1) as pool:
                for _, future in _completed(pool, [cell], folder):
                    yield _outcome(cell, future)

    return launch


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        # What waits is dropped at Ctrl-C; what runs has its rows on disk.
        pool.shutdown(wait=True, cancel_futures=True)


def _completed(
    pool: ProcessPoolExecutor, cells: Sequence[Cell], folder: Path
) -> Iterator[tuple[Cell, Future[Any]]]:
    waiting = {pool.submit(run_cell, cell.overrides, folder / "cells" / cell.hash): cell for cell in cells}
    pending: set[Future[Any]] = set(waiting)
    with noticing() as check:
        while pending:
            check()
            # Ctrl-C that comes just before a thread begins to wait does not wake it.
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting[future], future


def on_cluster(cluster: str, jobs: int, settings: Mapping[str, Any]) -> Launch:
    """A launcher: submitit, on Slurm or (``cluster="local"``) in processes of this machine (this project).

    Args:
        cluster: ``slurm`` or ``local``, as submitit names them.
        jobs: at once.
        settings: of submitit's executor, such as ``timeout_min`` and ``slurm_partition``.

    Raises:
        InputError: submitit is not installed.
    """

    def launch(cells: Sequence[Cell], folder: Path) -> Iterator[Outcome]:
        try:
            import submitit
        except ImportError as error:
            raise InputError("--launcher submitit-... needs submitit: pip install submitit") from error
        executor = submitit.AutoExecutor(folder=folder / "submitit", cluster=cluster)
        parallel = {"slurm_array_parallelism": jobs} if cluster == "slurm" else {}
        executor.update_parameters(**parallel, **settings)
        waiting = {}
        for cell in cells:
            waiting[executor.submit(run_cell, cell.overrides, folder / "cells" / cell.hash)] = cell
            # Slurm has a queue of its own.
            while cluster != "slurm" and sum(not job.done() for job in waiting) >= jobs:
                time.sleep(0.2)
        for job in submitit.helpers.as_completed(list(waiting), poll_frequency=1):
            yield _outcome(waiting[job], job)

    return launch


def _outcome(cell: Cell, future: Any) -> Outcome:
    try:
        record, error = future.result()
    except Exception as died:
        record, error = None, f"{type(died).__name__}: {died}"
    return Outcome(cell, record, error)


def _evaluate(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    with quiet_lightning():
        config = eval_config(overrides)
        if config.judge is not None and (folder / DONE).is_file():
            # All answers are there: no model is needed.
            found = judge_run(folder, config.judge)
        else:
            found = evaluate(config, folder)
    return found.record() | ({"judge": config.judge.identity} if config.judge else {})


def run_cell(
    overrides: Sequence[str], folder: Path, work: Work = _evaluate
) -> tuple[dict[str, Any] | None, str]:
    """Do a cell's work in its folder, by default evaluate it: its record, or the error (this project)."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record = work(overrides, folder)
    except Exception as error:
        (folder / FAILED).write_text(traceback.format_exc(), encoding="utf-8")
        return None, f"{type(error).__name__}: {error}"
    finish(folder, record)
    (folder / FAILED).unlink(missing_ok=True)
    return record, ""
