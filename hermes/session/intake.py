"""What is fed: anything that holds frames, as frames on the stream's own clock, or refused at the door."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from hermes.errors import InputError, SettingError
from hermes.video import Caption, Frame, FrameSource, open_source
from hermes.video.captions import captions

__all__ = ["Door", "Fed", "Notes", "check_time", "frames_of", "placed"]

logger = logging.getLogger(__name__)

# Seconds that rounding may have moved a time.
_TOLERANCE = 1e-6
# A frame's time is kept in whole microseconds, in 64 bits.
_LONGEST = 1e12


class Notes:
    """What a session has to say once, in the log and for whoever reads them."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def say(self, about: str, text: str) -> None:
        """Say it, unless something was said about this already."""
        if about not in self._said:
            self._said[about] = text
            logger.warning(text)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._said.values()))


class Fed(NamedTuple):
    """Frames to be taken in.

    Attributes:
        frames: one after another.
        name: for messages.
        times: whose they are: of a ``clip``, which has a clock of its own; of ``frames`` that say when they
            are; or of ``pictures``, which say nothing and come next.
    """

    frames: Iterator[Frame]
    name: str
    times: Literal["clip", "frames", "pictures"]


def frames_of(fed: Any, fps: float, *, bgr: bool = False) -> Fed:
    """The frames of a source, path, array, picture, or of an iterable of frames or pictures.

    Args:
        fed: whatever :func:`hermes.open_source` takes, one picture, or frames.
        fps: at which it is sampled, unless it is open already or gives frames.
        bgr: channels are in OpenCV's order.

    Raises:
        InputError: it holds no frames; (while iterating) it cannot be read.
        SettingError: ``bgr`` of something that is never in that order.
    """
    array = np.asarray(fed.detach().cpu()) if hasattr(fed, "detach") else fed
    if isinstance(array, Frame | Image.Image) or (isinstance(array, np.ndarray) and array.ndim == 3):
        fed = [array]
    elif isinstance(array, np.ndarray):
        turned = array[..., ::-1] if bgr and array.ndim == 4 else array
        return Fed(iter(open_source(turned, fps=fps)), "an array", "pictures")
    if isinstance(fed, FrameSource | str | os.PathLike | bytes | bytearray) or hasattr(fed, "read"):
        if bgr:
            raise SettingError("bgr", bgr, "false: files and open sources give RGB")
        if isinstance(fed, FrameSource):
            return Fed(iter(fed), fed.name, "clip")
        source = open_source(fed, fps=fps)
        return Fed(_closing(source), source.name, "clip")
    if not isinstance(fed, Iterable) or isinstance(fed, memoryview | Mapping):
        raise InputError(f"a {type(fed).__name__} holds no frames: give a path, a URL, an array or frames")
    items = iter(fed)
    first = next(items, _NOTHING)
    if first is _NOTHING:
        return Fed(iter(()), "nothing", "frames")
    items = chain([first], items)
    if isinstance(first, Frame):
        return Fed(_frames_alone(items, bgr), "frames", "frames")
    timed = isinstance(first, tuple)
    if isinstance(first[-1] if isinstance(first, tuple) and len(first) == 2 else first, str):
        return Fed(captions(items, fps), "texts", "frames" if timed else "pictures")
    pictures = open_source(map(_turned, items) if bgr else items, fps=fps)
    return Fed(iter(pictures), "pictures", "frames" if timed else "pictures")


_NOTHING = object()


def placed(fed: Fed, end: float, at: float | None, notes: Notes) -> Iterator[Frame]:
    """Frames on the stream's clock: a clip that begins anew, and pictures without times, go behind the rest.

    Frames of the caller's own begin anew with number 0; where they go back otherwise, the door refuses them.

    Args:
        fed: what came in.
        end: where the stream ends so far (s).
        at: where they are to begin instead (s).
        notes: where it is said that a clip was moved.
    """
    shift: float | None = None
    for frame in fed.frames:
        if shift is None:
            first, shift = check_time(frame.time, f"frame {frame.index}"), 0.0
            if at is not None:
                shift = at - first
            elif fed.times == "pictures":
                shift = end - first
            elif first < end - _TOLERANCE and (fed.times == "clip" or frame.index == 0):
                shift = end - first
                notes.say(
                    "clip",
                    f"{fed.name} begins at {first:g} s, and {end:g} s of the stream have passed: its times "
                    f"count from {end:g} s on, as those of each clip after it; feed(..., at=SECONDS) puts a "
                    "clip elsewhere",
                )
        if not shift:
            yield frame
            continue
        arrival = None if frame.arrival is None else frame.arrival + shift
        yield replace(frame, time=frame.time + shift, arrival=arrival)


def _closing(source: FrameSource) -> Iterator[Frame]:
    with closing(source):
        yield from source


def _frames_alone(items: Iterable[Any], bgr: bool) -> Iterator[Frame]:
    for item in items:
        if not isinstance(item, Frame):
            raise InputError(
                f"among frames there is a {type(item).__name__}: feed frames or pictures, not both"
            )
        yield replace(item, image=item.image[..., ::-1]) if bgr and not isinstance(item, Caption) else item


def _turned(item: Any) -> Any:
    """A picture in OpenCV's order as RGB, alone or with its time."""
    if isinstance(item, tuple) and len(item) == 2:
        return item[0], _turned(item[1])
    if isinstance(item, Image.Image):
        raise SettingError("bgr", True, "false: a PIL image is RGB")
    array = np.asarray(item.detach().cpu()) if hasattr(item, "detach") else item
    return array[..., ::-1] if isinstance(array, np.ndarray) and array.ndim == 3 else array


def check_time(seconds: Any, name: str) -> float:
    """A time on the stream's clock.

    Raises:
        InputError: it is negative, not finite, or no number.
    """
    try:
        time = float(seconds)
    except (TypeError, ValueError, OverflowError):
        time = math.nan
    if isinstance(seconds, str) or not 0 <= time < _LONGEST:
        raise InputError(f"{name}: got a time of {seconds!r} s; needed: a number of seconds from 0")
    return time


@dataclass
class Door:
    """Looks at each frame before it waits, so that the stream can go on with whatever passed.

    Args:
        fps: at which the session samples.
        tokens_per_frame: of a size; refuses one that cannot be encoded.
        notes: for what is to be said once.
        sees: whether frames are pictures; else they are captions.

    Attributes:
        size: height and width of the stream's frames; None before the first.
        time: of the newest frame (s).
        index: of the newest frame.
    """

    fps: float
    tokens_per_frame: Callable[[int, int], int]
    notes: Notes
    sees: bool = True
    size: tuple[int, int] | None = None
    time: float = -math.inf
    index: int = -1
    _given: int = field(default=-1, repr=False)

    def enter(self, frame: Frame) -> Frame | None:
        """The frame as the stream counts it; None where a source is sampled more often than the session.

        Raises:
            InputError: its picture cannot be encoded with those before, or its time goes back.
            SettingError: it was sampled at a rate that does not hold the session's.
        """
        sampled = self._at_our_rate(frame)
        if sampled is None:
            return None
        time = check_time(sampled.time, f"frame {frame.index}")
        size = self._checked(sampled, f"frame {frame.index}")
        twice = sampled.arrival is not None and sampled.index == self._given and time == self.time
        if not twice:
            if time <= self.time + _TOLERANCE:
                raise InputError(
                    f"frame {frame.index}: its time, {time:g} s, is not after that of the frame before, "
                    f"{self.time:g} s; a clip that begins anew goes behind it with feed(..., at=SECONDS)"
                )
            self._compare_spacing(sampled, time)
            self.index = max(self.index + 1, sampled.index)
        self.size, self.time, self._given = size, time, sampled.index
        let_in = replace(sampled, time=time, index=self.index, fps=self.fps)
        if isinstance(let_in, Caption):
            return let_in
        return replace(let_in, image=np.ascontiguousarray(sampled.image))

    def pass_by(self, time: float, index: int) -> None:
        """Count frames that came in by another way, up to this one."""
        self.time, self.index = max(self.time, time), max(self.index, index)
        self._given = self.index

    def _at_our_rate(self, frame: Frame) -> Frame | None:
        if frame.fps is None or math.isclose(frame.fps, self.fps, rel_tol=1e-6):
            return frame
        each = round(frame.fps / self.fps)
        if each < 1 or not math.isclose(frame.fps, each * self.fps, rel_tol=1e-6):
            raise SettingError(
                "fps",
                frame.fps,
                f"{self.fps:g}, at which this session samples, or a multiple of it",
                "Open the source with fps=session.fps, or feed its path; or open the session with video.fps.",
            )
        self.notes.say(
            "fps",
            f"frames were sampled {frame.fps:g} times a second: this session samples {self.fps:g} times, "
            f"and takes one in {each}",
        )
        return None if frame.index % each else replace(frame, index=frame.index // each)

    def _checked(self, frame: Frame, where: str) -> tuple[int, int] | None:
        """The size of its picture; a text has none."""
        if isinstance(frame, Caption):
            if self.sees:
                raise InputError(
                    f"{where} is a text, and this model is shown pictures: open the session on a text model"
                )
            frame.check(where)
            return None
        if not self.sees:
            raise InputError(
                f"{where} is a picture, and this model reads text: feed captions (an .srt or .jsonl file, "
                "pairs of time and text, hermes.video.Caption), or open the session on a model that sees"
            )
        return self._checked_size(frame.image)

    def _checked_size(self, image: Any) -> tuple[int, int]:
        shape = getattr(image, "shape", None)
        kind = f"{getattr(image, 'dtype', type(image).__name__)} of shape {list(shape or ())}"
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or not image.size:
            raise InputError(f"a frame is uint8 RGB [H, W, 3]; this one is {kind}")
        height, width, channels = image.shape
        if channels != 3:
            raise InputError(f"a frame is uint8 RGB [H, W, 3]; this one is {kind}")
        if self.size is None:
            self.tokens_per_frame(height, width)
        elif (height, width) != self.size:
            raise InputError(
                f"the frames of a stream must have one size: this one is {width}x{height}, those before it "
                f"{self.size[1]}x{self.size[0]}; scale it, or begin a new stream with reset()"
            )
        return height, width

    def _compare_spacing(self, frame: Frame, time: float) -> None:
        """Say so where frames that do not know their rate come at another than the session's."""
        if frame.fps is not None or math.isinf(self.time) or isinstance(frame, Caption):
            return
        steps, expected = (time - self.time) * self.fps, max(frame.index - self._given, 1)
        if abs(steps - expected) > 0.1 * expected:
            self.notes.say(
                "spacing",
                f"frames {self._given} and {frame.index} are {time - self.time:g} s apart; this session "
                f"samples every {1 / self.fps:g} s (video.fps={self.fps:g}), and counts time so",
            )
