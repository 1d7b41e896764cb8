"""A network between the camera and the model: frames that are lost, doubled, late, or too many to send."""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from hermes.config import Settings, setting
from hermes.errors import SettingError, did_you_mean
from hermes.video.source import Frame, Pixels

__all__ = ["Link"]

_LATE = ("wait", "drop")


@dataclass
class Link(Settings):
    """What happens to frames on their way (settings ``link.*``).

    Frames are sent one after another, each when the one before is out; then comes the way itself, ``latency``
    and a random ``jitter`` long. The camera's clock goes on meanwhile: a frame keeps its time, and
    :attr:`Frame.arrival` says when it is there. Pictures pass unchanged; their sizes are those of JPEG files,
    unless given.

    Raises:
        SettingError: an unknown word.

    >>> grey = np.zeros((8, 8, 3), np.uint8)
    >>> link = Link(kilobytes=1, bandwidth=4, latency=0.5)
    >>> [frame.arrival for frame in link.carry([Frame(grey, float(i), i) for i in range(3)])]
    [2.5, 4.5, 6.5]
    """

    loss: float = setting(0.0, help="share of frames that are lost", ge=0, le=1)
    duplicate: float = setting(0.0, help="share of frames that come twice", ge=0, le=1)
    latency: float = setting(0.0, help="time every frame is on its way", unit="s", ge=0)
    jitter: float = setting(
        0.0, help="mean of a random time besides, exponentially distributed", unit="s", ge=0
    )
    bandwidth: float | None = setting(None, help="of the sender; default: without limit", unit="kbit/s", gt=0)
    kilobytes: float | None = setting(
        None, help="size of a frame; default: its own as a JPEG file", unit="kB", gt=0
    )
    quality: int = setting(75, help="of that JPEG file", ge=1, le=95)
    queue: float | None = setting(
        None, help="a frame that would wait longer to be sent is dropped; default: none is", unit="s", ge=0
    )
    late: Literal["wait", "drop"] = setting(
        "wait",
        help="wait: frames stay in order and wait for those before; drop: one that was overtaken is lost",
    )

    def __post_init__(self) -> None:
        if self.late not in _LATE:
            raise SettingError("late", self.late, _LATE, did_you_mean(self.late, _LATE))

    def carry(self, frames: Iterable[Frame], seed: int = 0) -> Iterator[Frame]:
        """The frames that arrive, in order of arrival and of time.

        Args:
            frames: in order of time.
            seed: of losses, doubles and jitter.
        """
        arrivals = self._sent(frames, np.random.default_rng(seed))
        return self._in_order(arrivals) if self.late == "wait" else self._overtaking(arrivals)

    def _sent(self, frames: Iterable[Frame], rng: np.random.Generator) -> Iterator[Frame]:
        """Frames in the order they are sent, with their arrival."""
        free = -np.inf
        for frame in frames:
            # Drawn for every frame, so that one setting's luck does not hang on another's.
            lost, doubled = rng.random(2) < (self.loss, self.duplicate)
            jitter = self.jitter * rng.exponential(size=2)
            for copy in range(1 + bool(doubled)):
                begun = max(frame.time, free)
                if self.queue is not None and begun - frame.time > self.queue:
                    break
                free = begun + self._seconds(frame.image)
                if not lost:
                    yield replace(frame, arrival=float(free + self.latency + jitter[copy]))

    def _seconds(self, image: Pixels) -> float:
        """Seconds it takes to send a picture."""
        if self.bandwidth is None:
            return 0.0
        kilobytes = self.kilobytes
        if kilobytes is None:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=self.quality)
            kilobytes = file.tell() / 1000
        return 8 * kilobytes / self.bandwidth

    def _in_order(self, arrivals: Iterable[Frame]) -> Iterator[Frame]:
        last = -np.inf
        for frame in arrivals:
            last = max(last, frame.arrived)
            yield replace(frame, arrival=float(last))

    def _overtaking(self, arrivals: Iterable[Frame]) -> Iterator[Frame]:
        on_way: list[tuple[float, int, Frame]] = []
        newest = -np.inf
        for place, frame in enumerate(arrivals):
            # What is sent from now on cannot be there before this.
            while on_way and on_way[0][0] <= frame.time + self.latency:
                newest, *shown = _next(on_way, newest)
                yield from shown
            heapq.heappush(on_way, (frame.arrived, place, frame))
        while on_way:
            newest, *shown = _next(on_way, newest)
            yield from shown


def _next(on_way: list[tuple[float, int, Frame]], newest: float) -> tuple[float, *tuple[Frame, ...]]:
    """The next arrival, unless something newer was there before it."""
    _, _, frame = heapq.heappop(on_way)
    return (newest,) if frame.time < newest else (frame.time, frame)
