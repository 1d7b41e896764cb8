"""Small videos for the tests: frames that say their number, timestamps set by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from hermes.video import Frame, open_source

NTSC = Fraction(30000, 1001)


def grey(level: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def numbered(count: int, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """Frames that say their number as 8 black or white bars, which survives any codec."""
    for number in range(count):
        bits = [(number >> bit) & 1 for bit in range(8)]
        bars = np.repeat(np.array(bits, np.uint8) * 255, width // 8)
        yield np.broadcast_to(bars[None, :, None], (height, width, 3)).copy()


def number(image: np.ndarray) -> int:
    bars = image.reshape(image.shape[0], 8, -1).mean(axis=(0, 2)) > 128
    return sum(1 << bit for bit in range(8) if bars[bit])


def write_timed(
    path: Path,
    stamps: Sequence[int],
    *,
    tick: Fraction = Fraction(1, 1000),
    codec: str = "mpeg4",
    images: Iterable[np.ndarray] | None = None,
    rotation: float | None = None,
    b_frames: int = 0,
) -> Path:
    """A video whose timestamps are set by hand."""
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=30))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = tick
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.gop_size = 12
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for stamp, image in zip(stamps, images or numbered(len(stamps)), strict=True):
            picture = av.VideoFrame.from_ndarray(image)
            picture.pts, picture.time_base = stamp, tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def mux_silence(container: OutputContainer, stream: AudioStream, seconds: float) -> None:
    for i in range(round(seconds * 16000 / 1024)):
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16000, i * 1024
        container.mux(stream.encode(sound))
    container.mux(stream.encode(None))


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def on_screen(times: Sequence[float], wanted: Sequence[float], tolerance: float) -> list[int]:
    """The rule, spelled out a second time: the last image at or before each time, else the first."""
    return [max([i for i, time in enumerate(times) if time <= s + tolerance], default=0) for s in wanted]


def read(spec: object, **settings: Any) -> list[Frame]:
    with open_source(spec, **settings) as source:
        return list(source)
