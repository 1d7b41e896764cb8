"""Ctrl-C under Lightning's Trainer, as anywhere else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a KeyboardInterrupt leave a Trainer as what it is.

    Source: this project. The Trainer turns it into ``SystemExit(1)`` and leaves the signal ignored, so that
    neither an exit code nor a second Ctrl-C could tell.

    >>> with interruptible():
    ...     pass
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
