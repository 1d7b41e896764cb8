"""Writing small videos: sample clips, synthetic streams, test files."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import cast

import av
from av.video.stream import VideoStream

from hermes.errors import InputError, SettingError
from hermes.files import write_whole
from hermes.video.source import Pixels

_PREFERRED = {".webm": ("libvpx-vp9", "libvpx"), ".gif": ("gif",)}
_DEFAULT = ("libx264", "mpeg4")
_WITH_CRF = ("libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1")


def video_encoders() -> list[str]:
    """Those encoders :func:`write_video` knows that this PyAV build has.

    >>> "mpeg4" in video_encoders()
    True
    """
    known = {*_WITH_CRF, *_DEFAULT, "gif"}
    return sorted(name for name in known & av.codecs_available if av.Codec(name, "w").is_encoder)


def write_video(
    path: str | Path,
    frames: Iterable[Pixels],
    fps: float | Fraction,
    *,
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
) -> None:
    """Encode frames at a constant rate; a frame at a time, on one thread, so that a file is reproducible.

    Args:
        path: its suffix names the container; MP4 gets its index at the front.
        frames: uint8 RGB ``[H, W, 3]``, all of one size; even width and height for 4:2:0 codecs.
        fps: frames per second; a ``Fraction`` such as 30000/1001 is kept exactly.
        codec: encoder; by default libx264, or mpeg4 where the build lacks it.
        crf: constant rate factor, lower is better; for encoders that have one.
        preset: speed of libx264 and libx265, such as ``"ultrafast"``.

    Raises:
        SettingError: no such encoder, or a setting it does not have.
        InputError: no frame, a size it cannot encode, or a path that cannot be written.
    """
    path = Path(path)
    encoders = video_encoders()
    codec = codec or next((c for c in _PREFERRED.get(path.suffix.lower(), _DEFAULT) if c in encoders), "none")
    if codec not in encoders:
        raise SettingError("codec", codec, encoders)
    if crf is not None and codec not in _WITH_CRF:
        raise SettingError("crf", crf, f"nothing: {codec} has no such setting")
    if preset is not None and codec not in ("libx264", "libx265"):
        raise SettingError("preset", preset, f"nothing: {codec} has no such setting")
    settings = {"crf": crf, "preset": preset}
    options = {key: str(value) for key, value in settings.items() if value is not None}
    if codec == "libvpx-vp9" and crf is not None:
        options["b"] = "0"  # without it the rate factor is only a lower bound
    if codec == "libx264":
        options["mbtree"] = "0"  # with it the bytes vary from run to run at some frame sizes

    stream_of_frames = iter(frames)
    first = next(stream_of_frames, None)
    if first is None:
        raise InputError(f"{path}: no frame to write")
    height, width = first.shape[:2]
    if codec != "gif" and (height % 2 or width % 2):
        raise InputError(f"{path}: {codec} needs an even width and height, got {width}x{height}")
    container_options = {"movflags": "faststart"} if path.suffix.lower() in (".mp4", ".mov") else {}

    def write(aside: Path) -> None:
        try:
            opened = av.open(str(aside), "w", options=container_options)
        except ValueError as error:
            raise InputError(f"{path}: cannot be written ({error})") from error
        try:
            with opened as container:
                rate = Fraction(fps).limit_denominator(1_000_000)
                stream = cast(VideoStream, container.add_stream(codec, rate=rate, options=options))
                stream.width, stream.height = width, height
                stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
                stream.codec_context.thread_count = 1
                container.start_encoding()
                for i, frame in enumerate(chain([first], stream_of_frames)):
                    picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                    picture.pts = i
                    container.mux(stream.encode(picture))
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise InputError(f"{path}: cannot be written ({error})") from error

    write_whole(path, write)
