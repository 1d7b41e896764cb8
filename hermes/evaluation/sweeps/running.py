"""Running the cells of a sweep: in this process, in several, or on a cluster."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.errors import InputError
from hermes.evaluation.judging.judge_run import judge_run
from hermes.evaluation.results.run_folder import DONE, finish
from hermes.evaluation.running.run import evaluate
from hermes.evaluation.running.settings import eval_config
from hermes.evaluation.sweeps.cells import SweepCell
from hermes.files import make_folder, remove_file, write_text_whole
from hermes.machine.interrupts import noticing
from hermes.machine.lightning import quiet_lightning
from hermes.machine.processes import processes

__all__ = [
    "FAILED",
    "Launch",
    "Outcome",
    "Work",
    "in_processes",
    "is_done",
    "on_cluster",
    "record_of",
    "run_cell",
    "run_cells",
]

# In the folder of a cell that failed: where it did.
FAILED = "failed.txt"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: the summary's record, or why it failed."""

    cell: SweepCell
    record: Mapping[str, Any] | None
    error: str = ""


# Runs cells of a sweep below its folder; outcomes come as they end.
Launch = Callable[[Sequence[SweepCell], Path], Iterator[Outcome]]
# What is done with a cell's settings in its folder, and the record of it.
Work = Callable[[Sequence[str], Path], dict[str, Any]]


def is_done(cell: SweepCell, folder: Path) -> bool:
    """Whether a sweep's folder holds the outcome of a cell."""
    return record_of(cell, folder) is not None


def run_cells(cells: Sequence[SweepCell], folder: Path, launch: Launch) -> Iterator[Outcome]:
    """Run what is not done yet; outcomes come as they end, those found done first.

    A cell that fails is reported and stops no other; it is tried again next time.

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


def record_of(cell: SweepCell, folder: Path) -> dict[str, Any] | None:
    """What a cell of a sweep came to; None if it is not done, or not judged by its judge."""
    path = folder / "cells" / cell.hash / DONE
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        # What a machine that went down has left: the cell is done again, from its rows.
        record = None
    return record if isinstance(record, dict) and cell.judge in ("", record.get("judge", "")) else None


def in_processes(jobs: int) -> Launch:
    """A launcher: so many processes on this machine."""

    def launch(cells: Sequence[SweepCell], folder: Path) -> Iterator[Outcome]:
        lost = []
        # At Ctrl-C what runs has its rows on disk.
        with processes(jobs, __name__) as pool:
            for cell, future in _completed(pool, cells, folder):
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(cell)
                else:
                    yield _outcome(cell, future)
        # A process that is killed, as for its memory, takes all others with it: whose fault it was is found
        # one by one, and two at a time may have been too much.
        for cell in lost:
            with processes(1, __name__) as pool:
                for _, future in _completed(pool, [cell], folder):
                    yield _outcome(cell, future)

    return launch


def _completed(
    pool: ProcessPoolExecutor, cells: Sequence[SweepCell], folder: Path
) -> Iterator[tuple[SweepCell, Future[Any]]]:
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
    """A launcher: submitit, on Slurm or (``cluster="local"``) in processes of this machine.

    Args:
        cluster: ``slurm`` or ``local``, as submitit names them.
        jobs: at once.
        settings: of submitit's executor, such as ``timeout_min`` and ``slurm_partition``.

    Raises:
        InputError: submitit is not installed.
    """

    def launch(cells: Sequence[SweepCell], folder: Path) -> Iterator[Outcome]:
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


def _outcome(cell: SweepCell, future: Any) -> Outcome:
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
    """Do a cell's work in its folder, by default evaluate it: its record, or the error."""
    make_folder(folder)
    try:
        record = work(overrides, folder)
    except Exception as error:
        write_text_whole(folder / FAILED, traceback.format_exc())
        return None, f"{type(error).__name__}: {error}"
    finish(folder, record)
    remove_file(folder / FAILED)
    return record, ""
