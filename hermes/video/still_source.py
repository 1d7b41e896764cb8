"""Frames that are already pictures: arrays and a user's own iterator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
from PIL import Image

from hermes.errors import InputError
from hermes.video.captions import Caption
from hermes.video.clock import Clock
from hermes.video.limits import Limits
from hermes.video.source import Frame, FrameSource, Pixels, Sampling, TimedImage


class StillSource(FrameSource):
    """A known number of still pictures, one every ``1 / source_fps`` seconds.

    Args:
        count: how many there are.
        load: gives the picture of an index, uint8 RGB ``[H, W, 3]``; called when it is sampled.
        source_fps: at which rate they were taken.

    >>> grey = lambda i: np.full((2, 2, 3), i, np.uint8)
    >>> source = StillSource("ramp", Sampling(fps=1), 4, grey, source_fps=2)
    >>> [int(frame.image[0, 0, 0]) for frame in source]
    [0, 2]
    """

    def __init__(
        self, name: str, sampling: Sampling, count: int, load: Callable[[int], Pixels], *, source_fps: float
    ) -> None:
        super().__init__(name, sampling, duration=count / source_fps)
        self._count = count
        self._load = load
        self._source_fps = source_fps

    def images(self) -> Iterator[TimedImage]:
        """Every picture, loaded once it is sampled."""
        for i in range(self._count):
            yield TimedImage(i / self._source_fps, 1 / self._source_fps, partial(self._load, i))


def array_frames(array: np.ndarray, sampling: Sampling, *, name: str, source_fps: float) -> StillSource:
    """The frames of an array uint8 ``[T, H, W, 3]``.

    Raises:
        InputError: another shape or type.
    """
    given = f"{name}: got {array.dtype} of shape {list(array.shape)}; needed: uint8 [T, H, W, 3], RGB"
    if array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3:
        raise InputError(f"{given}. The channels come last: transpose by (0, 2, 3, 1).")
    if array.dtype != np.uint8:
        raise InputError(f"{given}. Scale values to 0..255 and convert to uint8.")
    if array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        raise InputError(given)
    return StillSource(
        name, sampling, len(array), lambda i: to_rgb(array[i], sampling), source_fps=source_fps
    )


class IteratorSource(FrameSource):
    """A user's own frames, one after another.

    A frame is an array or tensor uint8 ``[H, W, 3]``, a PIL image, a :class:`Frame`, or ``(time, image)``.
    Frames without a time come one every ``1 / source_fps``; those with one are sampled by it, like a video's.

    A leap of time of more than ``max_gap`` seconds ends in a warning, and the clock goes on at once.

    Raises:
        InputError: (while iterating) something that is no frame, or times that do not increase.
    """

    def __init__(
        self, frames: Iterable[Any], sampling: Sampling, *, name: str, source_fps: float, limits: Limits
    ) -> None:
        super().__init__(name, sampling)
        self._items = frames
        self._source_fps = source_fps
        self._max_gap = limits.gap()

    def images(self) -> Iterator[TimedImage]:
        """Every item as a timed picture.

        Raises:
            InputError: times that do not increase, or are none.
        """
        before = -1.0
        clock: Clock | None = None
        for i, item in enumerate(self._items):
            time, duration, image = i / self._source_fps, 1 / self._source_fps, item
            if isinstance(item, Caption):
                raise InputError(f"{self.name}: item {i} is a text: texts are fed as they are, not sampled")
            if isinstance(item, Frame):
                time, duration, image = item.time, 0.0, item.image
            elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Real):
                time, duration, image = float(item[0]), 0.0, item[1]
            if not before < time < math.inf:
                raise InputError(f"{self.name}: frame {i} has time {time:g} s after {before:g} s")
            before = time
            # The first may come at any time: nothing is repeated before it.
            clock = clock or Clock(self._max_gap, self.warn, time)
            time = clock.time(time, 1 / self._source_fps)
            # Frames without a time are a known step apart: no need to wait for the next.
            yield TimedImage(time, duration, partial(self._load, i, image), gap=duration)

    def _load(self, i: int, image: Any) -> Pixels:
        if not isinstance(image, Image.Image):
            image = as_array(image)
            if image is None:
                raise InputError(f"{self.name}: frame {i} is neither an array nor a PIL image")
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise InputError(
                    f"{self.name}: frame {i} is {image.dtype} of shape {list(image.shape)}; "
                    "needed: uint8 [H, W, 3], RGB"
                )
        return to_rgb(image, self.sampling)


def as_array(value: Any) -> np.ndarray | None:
    """A numpy array or torch tensor (of any device) as a numpy array; ``None`` for anything else.

    >>> as_array([1, 2]) is None
    True
    """
    if hasattr(value, "detach"):  # a tensor, told without importing torch
        value = value.detach().cpu().numpy()
    return value if isinstance(value, np.ndarray) else None


def to_rgb(image: np.ndarray | Image.Image, sampling: Sampling) -> Pixels:
    """A copy of its own, scaled down if asked for."""
    width, height = image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])
    size = sampling.size(width, height)
    if size != (width, height):
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    elif isinstance(image, Image.Image):
        image = image.convert("RGB")
    return np.array(image, np.uint8, order="C")
