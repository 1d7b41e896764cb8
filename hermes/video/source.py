"""A stream of frames on a true clock: what every source is, and the one rule by which all are sampled."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from types import TracebackType
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8

from hermes.errors import InputError, SettingError

Pixels: TypeAlias = UInt8[np.ndarray, "H W 3"]

_logger = logging.getLogger("hermes.video")


@dataclass(frozen=True, eq=False)
class Frame:
    """One sampled frame.

    Attributes:
        image: uint8 RGB ``[H, W, 3]``. Frames that repeat one picture share the array: do not write into it.
        time: the sample time ``start + index / fps``, in seconds on the source's own clock.
        index: number of the sample, from 0 at ``start``; a video whose pictures begin later begins with a
            higher one.
        arrival: seconds on the same clock at which it is there; None: at once.
        fps: how many a second its source was sampled at; None: nobody says.
    """

    image: Pixels
    time: float
    index: int
    arrival: float | None = None
    fps: float | None = None

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        late = "" if self.arrival is None else f", arrival={self.arrival:g}"
        return f"Frame({width}x{height}, time={self.time:g}, index={self.index}{late})"

    @property
    def arrived(self) -> float:
        """Seconds at which it is there."""
        return self.time if self.arrival is None else self.arrival


@dataclass(frozen=True)
class Sampling:
    """Which frames to take, and how large.

    Attributes:
        fps: frames per second to take.
        start: seconds; time of the first sample.
        end: seconds, exclusive; ``None`` for all.
        max_side: pixels; larger frames are scaled down to it; ``None``: as they are.

    Raises:
        SettingError: a value that makes no sense.

    >>> Sampling(fps=2, start=10).time(3)
    11.5
    >>> Sampling(max_side=640).size(1920, 1080)
    (640, 360)
    >>> Sampling(fps=0)
    Traceback (most recent call last):
    hermes.errors.SettingError: fps: got 0; allowed: a number above 0 (frames per second)
    """

    fps: float = 1.0
    start: float = 0.0
    end: float | None = None
    max_side: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise SettingError("fps", self.fps, "a number above 0 (frames per second)")
        if not (math.isfinite(self.start) and self.start >= 0):
            raise SettingError("start", self.start, "0 or more seconds")
        if self.end is not None and not self.end > self.start:
            raise SettingError("end", self.end, f"more than start={self.start:g} seconds")
        if self.max_side is not None and self.max_side < 1:
            raise SettingError("max_side", self.max_side, "1 or more pixels")

    def time(self, k: int) -> float:
        """Seconds of sample k."""
        return self.start + k / self.fps

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after scaling down."""
        scale = 1.0 if self.max_side is None else min(1.0, self.max_side / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


class TimedImage(NamedTuple):
    """A decoded picture before sampling.

    Attributes:
        time: seconds; when it appears.
        duration: seconds that it stays if it is the last; 0 if unknown.
        load: gives its RGB.
        gap: seconds in which certainly no other picture appears; 0 if unknown.
    """

    time: float
    duration: float
    load: Callable[[], Pixels]
    gap: float = 0.0


def sample(images: Iterable[TimedImage], sampling: Sampling, tolerance: float = 0.0) -> Iterator[TimedImage]:
    """Pick one image per sample time ``s_k = start + k / fps``, for every k from the first image to the end.

    Sample k is the image on screen at ``s_k``: the last one whose time is at most ``s_k + tolerance``, so
    that none shows what comes later. Before the very first image there is no sample. After the last image it
    is repeated for as long as it stays on screen. ``end`` is exclusive. A sample is known once the next image
    has come, or at once if the image at ``s_k`` says by its ``gap`` that it is the last in time. At most two
    images are held.

    Args:
        images: in increasing order of time; those before ``start`` only count as "already on screen".
        tolerance: seconds that rounding may have moved a timestamp.

    Returns:
        The image of every sample, in order.

    >>> film = [TimedImage(t, 0.5, lambda: np.zeros((1, 1, 3), np.uint8)) for t in (0.0, 0.4, 1.1, 3.0)]
    >>> [image.time for image in sample(film, Sampling(fps=1))]
    [0.0, 0.4, 1.1, 3.0]
    """
    return map(itemgetter(1), numbered_samples(images, sampling, tolerance))


def numbered_samples(
    images: Iterable[TimedImage], sampling: Sampling, tolerance: float
) -> Iterator[tuple[int, TimedImage]]:
    """What :func:`sample` picks, with the number k of each sample."""
    due = sampling.time
    stop = math.inf if sampling.end is None else sampling.end - 1e-9
    shown: TimedImage | None = None
    k = 0
    for image in images:
        if shown is None:
            k = max(0, math.ceil((image.time - tolerance - sampling.start) * sampling.fps))
            if due(k) + tolerance < image.time:
                k += 1
        while due(k) + tolerance < image.time and due(k) < stop and shown:
            yield k, shown
            k += 1
        at_once = due(k) - tolerance <= image.time and due(k) + tolerance < image.time + image.gap
        if at_once and due(k) < stop:
            yield k, image
            k += 1
        # Asked before the next image is decoded, which a camera might never deliver.
        if due(k) >= stop:
            return
        shown = image
    while shown and due(k) < stop:
        if due(k) - tolerance > shown.time and due(k) + tolerance >= shown.time + shown.duration:
            return
        yield k, shown
        k += 1


class FrameSource(ABC, Iterator[Frame]):
    """Frames of one video, sampled at a rate by their true times; a single pass, and a context manager.

    A source of your own implements :meth:`images`; sampling is done here.

    Attributes:
        fps: sampling rate, frames per second.
        duration: seconds at which the last frame ends, ``None`` as long as that is unknown: of a pipe, a
            camera or an address until it has ended. The file's packets are read for it, not its header.
        declared: the same as a file's header says, which may be wrong; ``None`` where it says nothing.
        name: for messages and records; a URL without its user and password.
        warnings: what went wrong without ending the stream; complete once the source is exhausted.

    Args:
        tolerance: seconds that rounding may have moved a timestamp, see :func:`sample`.

    Raises:
        InputError: ``start`` is past the end, or (while iterating) there is no frame, or frames differ in
            size.

    >>> class Flash(FrameSource):
    ...     def images(self):
    ...         for second in range(2):
    ...             yield TimedImage(second, 1.0, lambda: np.full((2, 2, 3), 255, np.uint8))
    >>> with Flash("flash", Sampling(fps=1)) as source:
    ...     [(frame.index, frame.time, frame.image.shape) for frame in source]
    [(0, 0.0, (2, 2, 3)), (1, 1.0, (2, 2, 3))]
    """

    declared: float | None = None

    def __init__(
        self, name: str, sampling: Sampling, *, duration: float | None = None, tolerance: float = 1e-6
    ) -> None:
        self.name = name
        self.sampling = sampling
        self.fps = float(sampling.fps)
        self._duration = duration
        self._measured = duration is not None
        self.tolerance = tolerance
        self.warnings: list[str] = []
        self._until = -math.inf
        self._frames = self._sampled()
        self._check_start(duration)

    @property
    def duration(self) -> float | None:
        """Seconds at which the last frame ends; ``None`` as long as that is unknown."""
        if not self._measured:
            self._measured = True
            self._duration = self._measure()
        return self._duration

    @duration.setter
    def duration(self, seconds: float | None) -> None:
        self._measured = True
        self._duration = seconds

    def _measure(self) -> float | None:
        """The duration where it takes time to find it."""
        return None

    def _check_start(self, end: float | None) -> None:
        if end is not None and self.sampling.start >= end:
            raise self._past_the_end(end)

    @abstractmethod
    def images(self) -> Iterator[TimedImage]:
        """Every image in order of time, not yet sampled; called once."""

    def __repr__(self) -> str:
        length = "of unknown length" if self.duration is None else f"{self.duration:g} s"
        return f"<{type(self).__name__} {self.name!r}: {length}, {self.fps:g} frames a second>"

    def close(self) -> None:
        """Release the source; no frame comes after."""
        self._frames.close()

    def warn(self, message: str) -> None:
        """Keep a warning and log it."""
        message = f"{self.name}: {message}"
        self.warnings.append(message)
        _logger.warning(message)

    def _watched(self) -> Iterator[TimedImage]:
        for image in self.images():
            self._until = image.time + image.duration
            yield image

    def _sampled(self) -> Generator[Frame, None, None]:
        last: TimedImage | None = None
        pixels = np.empty((0, 0, 3), np.uint8)
        index = -1
        for index, image in numbered_samples(self._watched(), self.sampling, self.tolerance):
            if image is not last:
                size = pixels.shape
                pixels = image.load()
                if last and pixels.shape != size:
                    now, before = (f"{shape[1]}x{shape[0]}" for shape in (pixels.shape, size))
                    raise InputError(
                        f"{self.name}: the frame at {image.time:.2f} s is {now}, those before it {before}; "
                        "all frames must have one size"
                    )
                last = image
            yield Frame(pixels, self.sampling.time(index), index, fps=self.fps)
        if index < 0:
            if math.isinf(self._until):
                raise InputError(f"{self.name}: no frame could be read")
            if self._until > self.sampling.start:
                raise InputError(f"{self.name}: no frame is shown from start to end")
            raise self._past_the_end(self._until)

    def _past_the_end(self, end: float) -> InputError:
        return InputError(f"{self.name}: start={self.sampling.start:g} s is past the end ({end:.2f} s)")

    def __next__(self) -> Frame:
        return next(self._frames)

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
