"""One way to open whatever holds frames."""

from __future__ import annotations

import io
import os
import re
import socket
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hermes.errors import InputError, SettingError, did_you_mean
from hermes.video.array_files import load_array
from hermes.video.av_source import VideoSource
from hermes.video.captions import CAPTIONS, read_captions
from hermes.video.container import Media
from hermes.video.limits import MAX_BYTES, MAX_PIXELS, Limits
from hermes.video.pictures import PictureSource, image_folder, is_picture
from hermes.video.source import FrameSource, Sampling
from hermes.video.still_source import IteratorSource, array_frames, as_array

# Addresses that are read; whatever else has a colon in its name is a file, or nothing.
_STORED = ("http", "https", "ftp", "ftps", "sftp")
_ONCE = ("pipe", "fd")
_LIVE = {
    "rtsp",
    "rtsps",
    "rtmp",
    "rtmps",
    "rtmpt",
    "rtmpe",
    "rtmpte",
    "rtmpts",
    "rtp",
    "srtp",
    "udp",
    "udplite",
    "tcp",
    "tls",
    "srt",
    "mms",
    "mmsh",
    "mmst",
    "unix",
}
_NETWORK = ",".join((*_STORED, *sorted(_LIVE), "httpproxy", "crypto", "data", "ffrtmphttp", "ffrtmpcrypt"))
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")


def open_source(
    spec: object,
    *,
    fps: float = 1.0,
    start: float = 0.0,
    end: float | None = None,
    max_side: int | None = None,
    source_fps: float | None = None,
    threads: int = 2,
    options: Mapping[str, str | int | float | bool] | None = None,
    max_gap: float | None = None,
    max_pixels_decoded: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    references: bool = False,
) -> FrameSource:
    """Open a video, a folder of images, an array or a camera as one stream of frames sampled at ``fps``.

    See :func:`hermes.video.sample` for the sampling rule.

    Args:
        spec: a video file, or one open for reading (``io.BytesIO``); an image, animated or not; a folder of
            images; a ``.npy`` or ``.npz`` file, array or tensor, uint8 ``[T, H, W, 3]``; captions (``.srt``,
            ``.jsonl``), whose texts keep their own times; a URL or camera that FFmpeg reads (``rtsp://...``,
            ``/dev/video0``); a pipe or socket, which is opened once; or an iterable of arrays, PIL images,
            :class:`Frame` or ``(time, image)``. A path that exists is always that file. A source that is
            already open is returned as it is, with its own sampling.
        fps: frames per second to sample.
        start: seconds; where to begin.
        end: seconds, exclusive; ``None`` for all.
        max_side: pixels; larger frames are scaled down to it.
        source_fps: at which rate images and arrays were taken; ``None``: already sampled at ``fps``.
        threads: decoder threads.
        options: for FFmpeg's demuxer, such as ``{"rtsp_transport": "tcp"}``.
        max_gap: seconds; a longer time without a picture counts as a leap of the time stamps, over which the
            clock goes on at once; ``None``: an hour, of live sources half a minute.
        max_pixels_decoded: a larger picture is refused before it is decoded.
        max_bytes: a file of arrays that unpacks to more is refused.
        references: whether a local file may name others to be read (playlists).

    Returns:
        A single pass over frames; close it, or use it in a ``with`` block.

    Raises:
        SettingError: a rate, time or size that makes no sense.
        InputError: nothing there to read as frames.

    >>> import numpy as np
    >>> with open_source(np.zeros((3, 4, 6, 3), np.uint8), fps=2.0) as source:
    ...     [frame.time for frame in source]
    [0.0, 0.5, 1.0]
    """
    sampling = Sampling(fps, start, end, max_side)
    if source_fps is not None and not source_fps > 0:
        raise SettingError("source_fps", source_fps, "a number above 0 (frames per second)")
    if threads < 1:
        raise SettingError("threads", threads, "1 or more")
    if isinstance(spec, FrameSource):
        return spec
    limits = Limits(max_gap, max_pixels_decoded, max_bytes)
    texts = {
        key: str(int(value) if value is True or value is False else value)
        for key, value in (options or {}).items()
    }
    rate = source_fps or fps
    if isinstance(spec, bytes | bytearray):
        spec = io.BytesIO(spec)
    if isinstance(spec, str | os.PathLike):
        text = os.fsdecode(spec)
        path = _local(text)
        if path is not None and path.is_dir():
            return image_folder(path, sampling, source_fps=rate, limits=limits)
        if path is not None and path.suffix.lower() in (".npy", ".npz"):
            return array_frames(load_array(path, limits), sampling, name=str(path), source_fps=rate)
        if path is not None and path.suffix.lower() in CAPTIONS:
            return read_captions(path, sampling)
        media = _at(text, texts) if path is None else _of_path(path, texts, references)
    elif hasattr(spec, "read"):
        media = _of_file(spec, texts)
    elif (array := as_array(spec)) is not None:
        return array_frames(array, sampling, name="array", source_fps=rate)
    elif isinstance(spec, Iterable):
        return IteratorSource(spec, sampling, name="frames", source_fps=rate, limits=limits)
    else:
        raise InputError(f"a {type(spec).__name__} holds no frames: give a path, a URL, an array or frames")
    if media.again and media.bytes is not None:
        file = media.bytes()
        try:
            if is_picture(file, Path(media.name).suffix):
                source = PictureSource(
                    media.name, sampling, file, stays=1 / rate, limits=limits, kept=media.kept
                )
                file = None
                return source
        finally:
            if file is not None:
                media.release(file)
    return VideoSource(media, sampling, threads=threads, limits=limits)


def _local(text: str) -> Path | None:
    """The path that is meant; ``None`` for an address or a camera.

    Raises:
        InputError: a path at which there is nothing, or an empty file.
    """
    if not text:
        raise InputError("an empty path: name a video")
    path = Path(text)
    if _exists(path):
        if text.startswith("/dev/video"):
            return None
    else:
        scheme = _scheme(text)
        if scheme == "file":
            path = _from_uri(text)
        elif scheme in (*_STORED, *_ONCE, *_LIVE) or text.startswith("/dev/video"):
            return None
        elif text.startswith("~"):
            try:
                path = path.expanduser()
            except RuntimeError:
                raise InputError(f"{text}: no such file, and no such user's folder") from None
    _check_path(path)
    return path


def _from_uri(text: str) -> Path:
    """The path of ``file:///a%20b`` or ``file:a``."""
    parts = urlsplit(text, allow_fragments=False)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{text}: a file on another machine ({parts.netloc})")
    raw = text.split(":", 1)[1]
    raw = raw.removeprefix(f"//{parts.netloc}") if raw.startswith("//") else raw
    path = Path(unquote(raw))
    return Path(raw) if not _exists(path) and _exists(Path(raw)) else path


def _scheme(text: str) -> str:
    found = _SCHEME.match(text)
    return found[1].lower() if found else ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name that is too long
        return False


def _check_path(path: Path) -> None:
    try:
        found = path.stat()
    except ValueError:
        raise InputError(f"{str(path)!r}: no path can hold a zero character") from None
    except FileNotFoundError:
        if not _exists(path.parent):
            raise InputError(
                f"{path}: no such file; the folder {path.parent} does not exist either"
            ) from None
        siblings = os.listdir(path.parent) if os.access(path.parent, os.R_OK) else []
        raise InputError(f"{path}: no such file. {did_you_mean(path.name, siblings)}".rstrip()) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")


def _at(url: str, options: Mapping[str, str]) -> Media:
    """An address or camera, which FFmpeg opens."""
    name = re.sub(r"//[^/]*@", "//", url)
    live = _scheme(url) not in (*_STORED, *_ONCE)
    if _scheme(url) in (*_STORED, *_LIVE):  # what comes over a network names no file of this machine
        options = {"protocol_whitelist": _NETWORK, **options}
    return Media(name, url, live=live, options=options)


def _of_path(path: Path, options: Mapping[str, str], references: bool) -> Media:
    regular = path.is_file()
    if references and regular:
        return Media(str(path), f"file:{path.absolute()}", again=True, options=options)
    return Media(str(path), bytes=lambda: _read(path), again=regular, options=options)


def _read(path: Path) -> Any:
    """Open a file, pipe or socket for reading.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        if not path.is_socket():
            return io.FileIO(path)
        if path.resolve().parent.name == "fd" or str(path).startswith("/dev/"):
            # A socket handed over as an open file, such as /dev/stdin, cannot be opened by its name.
            number = {"stdin": 0}.get(path.name) or int(path.name)
            return io.FileIO(os.dup(number))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            return connection.makefile("rb", buffering=0)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _of_file(file: Any, options: Mapping[str, str]) -> Media:
    """Something open for reading, which stays open."""
    given = getattr(file, "name", None)
    name = given if isinstance(given, str) else type(file).__name__
    if isinstance(file, io.TextIOBase) or not isinstance(file.read(0), bytes):
        raise InputError(f"{name}: open it for reading bytes, not text")
    again = isinstance(file, io.IOBase) and file.seekable()

    def rewound() -> Any:
        if again:
            file.seek(0)
        return file

    return Media(name, bytes=rewound, again=again, kept=True, options=options)
