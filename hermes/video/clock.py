"""A clock that never goes back and never leaps, whatever the time stamps of a file say."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Gives pictures their times.

    A time stamp that follows the one before by at most ``max_gap`` seconds is the time itself: the picture
    before stays on screen that long. Over a longer leap, and where time stamps run back by over a second
    (joined recordings), the clock goes on from where the picture before ended. A picture without a time
    stamp, or whose own is not later than that of the one before, follows when that ends.

    Args:
        max_gap: seconds.
        warn: told of the first leap.
        until: seconds at which the clock begins.

    >>> clock = Clock(max_gap=10, warn=print)
    >>> [clock.time(stamp, 1.0) for stamp in (0.0, 1.0, 9.0, None, 1e6, 1e6 + 1)]
    timestamps jump by +999989.00 s at 11.00 s; the clock goes on
    [0.0, 1.0, 9.0, 10.0, 11.0, 12.0]
    """

    def __init__(self, max_gap: float, warn: Callable[[str], None], until: float = 0.0) -> None:
        self.until = until
        self.pictures = 0
        self.jumps = 0
        self.repeats = 0
        self._begun = until
        self._last: float | None = None
        self._max_gap = max_gap
        self._warn = warn
        self._shift = 0.0

    def time(self, stamp: float | None, duration: float) -> float:
        """Seconds at which a picture appears.

        Args:
            stamp: seconds; ``None`` where it has none.
            duration: seconds that it says it stays.
        """
        self.pictures += 1
        time = self.until if stamp is None else stamp + self._shift
        before = self._begun if self._last is None else self._last
        if not -max(1.0, 2 * duration) <= time - before <= self._max_gap:
            if not self.jumps:
                jump = time - self.until
                self._warn(f"timestamps jump by {jump:+.2f} s at {self.until:.2f} s; the clock goes on")
            self.jumps += 1
            self._shift += self.until - time
            time = self.until
        if self._last is not None and time <= self._last:
            self.repeats += 1
            time = self.until
        self._last = time
        self.until = time + min(duration, self._max_gap)
        return time
