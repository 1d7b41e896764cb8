"""Opening a container with FFmpeg: from an address or from bytes, confined to what the user named."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import PurePath
from typing import Any, NamedTuple, cast

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from hermes.errors import InputError
from hermes.video.limits import Limits
from hermes.video.pictures import IMAGE_SUFFIXES

_TIMEOUT = 30.0  # seconds without data after which a stream counts as ended
# Demuxers that open what a file names, expand patterns, or run scripts.
_REFERRING = {
    "avisynth",
    "concat",
    "dash",
    "hls",
    "image2",
    "imf",
    "lavfi",
    "mlv",
    "rtp",
    "rtsp",
    "sap",
    "sdp",
    "vapoursynth",
    "vobsub",
}
_V4L2 = "video4linux2,v4l2"
_NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails


@cache
def _confined() -> str:
    """Formats that hold what they show, for FFmpeg; asked for late, as a light command has no FFmpeg."""
    return ",".join(sorted(av.formats_available - _REFERRING))


@dataclass(frozen=True)
class Media:
    """Where a video's bytes come from.

    Attributes:
        name: shown in messages; without a password.
        url: an address that FFmpeg opens itself; empty where there are bytes.
        bytes: opens them at their beginning.
        again: whether they can be opened again, and give the same.
        kept: whether they stay open when the video is closed, as they are the caller's.
        live: a camera or a network stream.
        options: for FFmpeg's demuxer.
    """

    name: str
    url: str = ""
    bytes: Callable[[], Any] | None = None
    again: bool = False
    kept: bool = False
    live: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def release(self, file: Any) -> None:
        """Close what :attr:`bytes` opened."""
        if not self.kept:
            file.close()

    def open(self, limits: Limits) -> Opened:
        """Open the container and find its video.

        FFmpeg knows bytes by nothing but their suffix, so that no name is taken for an address or a pattern,
        and may open nothing besides.

        Raises:
            InputError: nothing that FFmpeg can read as a video, or a playlist.
        """
        options = {"max_pixels": str(min(limits.max_pixels_decoded, 2**31 - 1)), **self.options}
        file = None if self.bytes is None else self.bytes()
        read = None if file is None else _Unnamed(file, self.name)
        if read is not None:
            options = {"protocol_whitelist": "none", "format_whitelist": _confined(), **options}
        form = "v4l2" if self.url.startswith("/dev/video") and _V4L2 in av.formats_available else None
        closed: list[Callable[[], None]] = [] if file is None else [partial(self.release, file)]
        try:
            container: InputContainer = av.open(
                read or self.url,
                "r",
                format=form,
                options=options,
                timeout=_TIMEOUT,
                metadata_errors="replace",
            )
            closed.insert(0, container.close)
            if container.format.name == "tty":  # FFmpeg "plays" any text file
                raise InputError(f"{self.name}: a text file, not a video")
            return Opened(container, _find_video(container, self.name), tuple(closed))
        except BaseException as error:
            for close in closed:
                close()
            if not isinstance(error, av.FFmpegError | OSError | ValueError | MemoryError):
                raise
            if read is not None and read.is_text():
                raise InputError(
                    f"{self.name}: a text file, not a video; a playlist that names others is followed with "
                    "video.references=true"
                ) from None
            # The error's own text may hold a URL's password.
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise InputError(f"{self.name}: not a video that FFmpeg can read ({reason})") from None


class Opened(NamedTuple):
    """An open container and its video."""

    container: InputContainer
    stream: VideoStream
    closed: tuple[Callable[[], None], ...]

    def close(self) -> None:
        """Close it, and the bytes that were opened for it."""
        for close in self.closed:
            close()


class _Unnamed:
    """Bytes to read, with no more of their name than its suffix."""

    def __init__(self, file: Any, name: str) -> None:
        suffix = PurePath(name).suffix.lower()
        plain = suffix[1:].isascii() and suffix[1:].isalnum() and suffix not in IMAGE_SUFFIXES
        self.name = f"video{suffix}" if plain else "video"
        self._file = file
        self._head = b""
        if isinstance(file, io.IOBase) and file.seekable():
            self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        found: bytes = self._file.read(size)
        self._head = self._head or found[:512]
        return found

    def is_text(self) -> bool:
        """Whether they begin like a text."""
        return bool(self._head) and min(self._head) >= ord("\t")


def _find_video(container: InputContainer, name: str) -> VideoStream:
    """The stream that a player shows: the default one, or the first; never cover art.

    Raises:
        InputError: there is none, or none that can be decoded.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & _NOT_VIDEO]
    streams.sort(key=lambda stream: not stream.disposition & Disposition.default)
    for stream in streams:
        if cast(object, stream.codec_context) is not None:
            return stream
    if streams:
        problem = f"no decoder for its video ({_codecs(container)})"
    else:
        sound = (stream.codec_context for stream in container.streams.audio)
        others = ", ".join(f"audio: {context.name}" for context in sound if cast(object, context) is not None)
        problem = f"has no video stream ({others or 'no audio either'})"
    raise InputError(f"{name}: {problem}")


def _codecs(container: InputContainer) -> str:
    """The video streams' codecs as FFmpeg describes them; PyAV says nothing of one it cannot decode."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        text: str = container.dumps_format()  # type: ignore[attr-defined]
    finally:
        av.logging.set_level(level)
    return ", ".join(found.strip() for found in re.findall(r"Video: ([^,\n]*)", text)) or "unknown"
