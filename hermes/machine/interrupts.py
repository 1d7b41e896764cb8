"""Ctrl-C that is not lost while the main thread waits for others."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noticing() -> Iterator[Callable[[], None]]:
    """Give a function to be called now and then, which raises KeyboardInterrupt if one was swallowed.

    Python raises it at whatever the main thread does next; in a finalizer that the
    garbage collector runs, it is printed and forgotten. A handler of the caller's own stays as it is.

    >>> with noticing() as check:
    ...     check()
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield lambda: None
        return
    came = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        came.set()
        signal.default_int_handler(number, frame)

    def check() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, usual)
