"""Processes of this machine that work side by side."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext

__all__ = ["processes"]


@contextmanager
def processes(count: int, importing: str) -> Iterator[ProcessPoolExecutor]:
    """So many processes, fresh ones; at the end, or at an exception, what still waits is dropped.

    They are forked from a process that has imported the packages once and done nothing else. Where the system
    cannot fork, each imports them for itself.

    Args:
        count: of processes.
        importing: the module whose functions they run.

    >>> with processes(1, "hermes.machine") as pool:
    ...     pool.submit(max, 1, 2).result()
    2
    """
    pool = ProcessPoolExecutor(
        count, mp_context=_context(importing), initializer=_adopt, initargs=(dict(os.environ),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _context(importing: str) -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Heard by the first pool of this process alone; later ones import what is missing.
    context.set_forkserver_preload([importing])
    return context


def _adopt(environment: Mapping[str, str]) -> None:
    """Take over the environment, which may have changed since the first process began."""
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Work for nobody else: whoever asked may have been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
