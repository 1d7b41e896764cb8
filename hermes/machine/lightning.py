"""Lightning's Trainer made polite: Ctrl-C as anywhere else, and no remarks."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["interruptible", "quiet_lightning"]


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a KeyboardInterrupt leave a Trainer as what it is.

    The Trainer turns it into ``SystemExit(1)`` and leaves the signal ignored, so that
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


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's remarks on the machine and its advertisements; its warnings stay."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Of its own use of PyTorch, and of a folder that a run goes on in.
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
