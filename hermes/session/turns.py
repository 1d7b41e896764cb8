"""Who may use a session now: one thread at a time, and one that feeds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, RLock, get_ident
from typing import Any, TypeVar, cast

from hermes.errors import HermesError

__all__ = ["Turns", "alone"]

Method = TypeVar("Method", bound=Callable[..., Any])


def alone(method: Method) -> Method:
    """A method of a session that other threads wait for; a callback within it may call another one."""

    @functools.wraps(method)
    def locked(self: Any, *args: Any, **options: Any) -> Any:
        with self.turns.lock:
            return method(self, *args, **options)

    return cast(Method, locked)


class Turns:
    """The turns of the threads that use a session.

    Threads that feed wait for each other from their first frame to their last; a question comes in between.

    Attributes:
        lock: held by whoever reads or changes the streams; a thread may take it again.
        busy: whether a chunk is being written.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self.busy = False
        self._free = Condition(self.lock)
        self._feeder: int | None = None

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """Feed, while other threads that feed wait for their turn.

        Raises:
            HermesError: a callback feeds the session whose chunk it is told of.
        """
        me = get_ident()
        with self.lock:
            self.refuse_while_writing()
            while self._feeder not in (None, me):
                self._free.wait()
            outer, self._feeder = self._feeder, me
        try:
            yield
        finally:
            with self.lock:
                self._feeder = outer
                self._free.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write a chunk into the memory, while everything else waits or is refused."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    def refuse_while_writing(self) -> None:
        """Refuse what would change the stream under a chunk that is being written.

        Raises:
            HermesError: a callback asks for it.
        """
        if self.busy:
            raise HermesError("a callback cannot feed, reset or resume the session whose chunk it is told of")
