"""Whether a session keeps up with its stream: work is timed, and queued as on a machine that watches live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from hermes.machine.device import synchronize
from hermes.session.answer import Answer
from hermes.session.session import Callback, StreamSession
from hermes.video import Frame

__all__ = ["LiveClock"]


class LiveClock(Callback):
    """How far a session would lag behind if its frames came at their own times.

    Frames are read as fast as they can be; what each chunk takes is measured and laid on the stream's clock.
    A chunk is begun when its last frame has arrived, or at the question that cuts it short, and not before
    the work at hand is done; answers take their time likewise. A question at the end of the stream is asked
    when the last frame has arrived.

    Attributes:
        question: seconds; when the next question comes; None: at the end of the stream.
        lag: seconds from the last question until all that had arrived before it was in the memory.
        stale: seconds from the newest frame encoded to the last question.
    """

    def __init__(self) -> None:
        self.question: float | None = None
        self.lag = self.stale = 0.0
        self._newest = self._arrived = self._begun = self._free = 0.0

    @contextmanager
    def watching(self, session: StreamSession) -> Iterator[LiveClock]:
        """Watch a session inside this block."""
        session.callbacks.append(self)
        try:
            yield self
        finally:
            session.callbacks.remove(self)

    def on_encode_start(self, session: StreamSession, frames: Sequence[Frame]) -> None:
        """Note when the chunk could be begun."""
        last = session.waiting[-1] if session.waiting else None
        if last is None:  # a chunk that was embedded elsewhere has no frames
            return
        cut = len(session.waiting) < session.chunk_frames and self.question is not None
        ready = max(last.arrived, self.question or 0.0) if cut else last.arrived
        self._newest, self._arrived = last.time, last.arrived
        self._begun = max(ready, self._free)
        self._start(session)

    def on_compress_end(self, session: StreamSession, changed: bool) -> None:
        """The chunk is in the memory."""
        self._free = self._begun + self._elapsed(session)

    def on_ask_start(self, session: StreamSession, question: str) -> None:
        """Note how far the memory lags behind, and how old its newest frame is."""
        now = session.now if self.question is not None else max(session.now, self._arrived)
        self.lag = max(self._free - now, 0.0)
        self.stale = now - self._newest
        self._begun = max(self._free, now)
        self._start(session)

    def on_ask_end(self, session: StreamSession, answer: Answer) -> None:
        """The next chunk waits until the answer is given."""
        self._free = self._begun + self._elapsed(session)

    def _start(self, session: StreamSession) -> None:
        synchronize(session.backbone.device)
        self._started = perf_counter()

    def _elapsed(self, session: StreamSession) -> float:
        synchronize(session.backbone.device)
        return perf_counter() - self._started
