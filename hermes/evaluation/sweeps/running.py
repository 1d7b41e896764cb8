"""Running the cells of a sweep: in this process, in several, or on a cluster."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.errors import InputError, SettingError
from hermes.evaluation.judging.judge_run import judge_run
from hermes.evaluation.results.run_folder import DONE, PACKAGES, differences, finish, read_manifest, run_file
from hermes.evaluation.running.run import evaluate
from hermes.evaluation.running.settings import eval_config
from hermes.evaluation.scoring.summary import SummaryRecord
from hermes.evaluation.sweeps.cells import SweepCell
from hermes.files import make_folder, remove_file, write_text_whole
from hermes.machine.environment import versions
from hermes.machine.interrupts import noticing
from hermes.machine.lightning import quiet_lightning
from hermes.machine.processes import processes
from hermes.reading import read_object, typed

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
    """What became of a cell: the summary's record, or why it failed; both where videos are broken."""

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


def run_cells(
    cells: Sequence[SweepCell], folder: str | Path, launch: Launch, *, anyway: bool = False
) -> Iterator[Outcome]:
    """Run what is not done yet; outcomes come as they end, those found done first.

    A cell that fails is reported and stops no other; it is tried again next time, and so is one whose videos
    could not all be read.

    Args:
        cells: all of the sweep.
        folder: of the sweep; a cell's own is ``folder/cells/HASH``.
        launch: runs cells, such as :func:`in_processes`.
        anyway: also beside cells that other versions have made.

    Raises:
        SettingError: cells that are done were made by other versions of Hermes, PyTorch or transformers.
        InputError: a cell's file that cannot be read.
    """
    folder = Path(folder)
    found = [(cell, record_of(cell, folder)) for cell in cells]
    missing = [cell for cell, record in found if record is None]
    if missing and not anyway:
        _check_versions([cell for cell, record in found if record is not None], folder)
    yield from (Outcome(cell, record) for cell, record in found if record is not None)
    if missing:
        yield from launch(missing, folder)


def _check_versions(done: Sequence[SweepCell], folder: Path) -> None:
    ours = {"versions": versions()}
    for cell in done:
        own = folder / "cells" / cell.hash
        if not run_file(own, "manifest.json").is_file():
            continue
        kept = read_manifest(own)
        found = differences(kept, ours, PACKAGES)
        # Manifests of earlier versions do not tell all that is compared since.
        if found and "fingerprint" in kept:
            said = "; ".join(f"{name}: {was}, now {now}" for name, (was, now) in found.items())
            hint = f"Cell {cell.label or cell.hash} was made with others ({said}); --anyway goes on."
            raise SettingError("output", str(folder), "a new folder, or a sweep of these versions", hint)


def record_of(cell: SweepCell, folder: Path) -> dict[str, Any] | None:
    """What a cell of a sweep came to; None if it is not done, or not judged by its judge."""
    path = run_file(folder / "cells" / cell.hash, DONE)
    # An empty one is what a machine that went down may leave: the cell is done again, from its rows.
    if not path.is_file() or not path.stat().st_size:
        return None
    record = read_object(path)
    # Measurements of time and bytes have records of their own.
    if "records" not in record:
        typed(SummaryRecord, record, f"{path} (without it the cell is counted anew)")
    return record if cell.judge in ("", record.get("judge", "")) else None


def in_processes(jobs: int, *, anyway: bool = False) -> Launch:
    """A launcher: so many processes on this machine.

    Args:
        jobs: at once.
        anyway: cells that were begun with something else are gone on with.
    """

    def launch(cells: Sequence[SweepCell], folder: Path) -> Iterator[Outcome]:
        lost = []
        # At Ctrl-C what runs has its rows on disk.
        with processes(jobs, __name__) as pool:
            for cell, future in _completed(pool, cells, folder, anyway):
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(cell)
                else:
                    yield _outcome(cell, future)
        # A process that is killed, as for its memory, takes all others with it: whose fault it was is found
        # one by one, and two at a time may have been too much.
        for cell in lost:
            with processes(1, __name__) as pool:
                for _, future in _completed(pool, [cell], folder, anyway):
                    yield _outcome(cell, future)

    return launch


def _completed(
    pool: ProcessPoolExecutor, cells: Sequence[SweepCell], folder: Path, anyway: bool
) -> Iterator[tuple[SweepCell, Future[Any]]]:
    work = functools.partial(_evaluate, anyway=anyway)
    own = {cell: folder / "cells" / cell.hash for cell in cells}
    waiting = {pool.submit(run_cell, cell.overrides, own[cell], work): cell for cell in cells}
    pending: set[Future[Any]] = set(waiting)
    with noticing() as check:
        while pending:
            check()
            # Ctrl-C that comes just before a thread begins to wait does not wake it.
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting[future], future


def on_cluster(cluster: str, jobs: int, settings: Mapping[str, Any], *, anyway: bool = False) -> Launch:
    """A launcher: submitit, on Slurm or (``cluster="local"``) in processes of this machine.

    Args:
        cluster: ``slurm`` or ``local``, as submitit names them.
        jobs: at once.
        settings: of submitit's executor, such as ``timeout_min`` and ``slurm_partition``.
        anyway: cells that were begun with something else are gone on with.

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
        work = functools.partial(_evaluate, anyway=anyway)
        for cell in cells:
            waiting[executor.submit(run_cell, cell.overrides, folder / "cells" / cell.hash, work)] = cell
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


def _evaluate(overrides: Sequence[str], folder: Path, *, anyway: bool = False) -> dict[str, Any]:
    with quiet_lightning():
        config = eval_config(overrides)
        if config.judge is not None and (folder / DONE).is_file():
            # All answers are there: no model is needed.
            found = judge_run(folder, config.judge, anyway=anyway)
        else:
            found = evaluate(config, folder, anyway=anyway)
    return found.record() | ({"judge": config.judge.identity} if config.judge else {})


def run_cell(
    overrides: Sequence[str], folder: Path, work: Work = _evaluate
) -> tuple[dict[str, Any] | None, str]:
    """Do a cell's work in its folder, by default evaluate it: its record, or the error.

    Both where videos could not be read: such a cell is not done, and is tried again.
    """
    make_folder(folder)
    try:
        record = work(overrides, folder)
    except Exception as error:
        write_text_whole(folder / FAILED, traceback.format_exc())
        return None, f"{type(error).__name__}: {error}"
    if record.get("broken"):
        lost = sum(one["questions"] for one in record["broken"])
        return record, f"{len(record['broken'])} videos could not be read, {lost} questions not asked"
    finish(folder, record)
    remove_file(folder / FAILED)
    return record, ""
