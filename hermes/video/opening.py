"""One way to open whatever holds frames."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from hermes.errors import InputError, SettingError, did_you_mean
from hermes.video.av_source import VideoSource
from hermes.video.source import FrameSource, Sampling
from hermes.video.still_source import IteratorSource, array_frames, as_array, image_folder

# Two letters at least, so that C:\video.mp4 stays a path.
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
_SEEKABLE = ("file:", "http:", "https:")


def open_source(
    spec: object,
    *,
    fps: float = 1.0,
    start: float = 0.0,
    end: float | None = None,
    max_side: int | None = None,
    source_fps: float | None = None,
    threads: int = 2,
    options: Mapping[str, str] | None = None,
) -> FrameSource:
    """Open a video, a folder of images, an array or a camera as one stream of frames sampled at ``fps``.

    See :func:`hermes.video.sample` for the sampling rule.

    Args:
        spec: a video file; a folder of images; a ``.npy`` or ``.npz`` file, array or tensor, uint8
            ``[T, H, W, 3]``; a URL or camera that FFmpeg reads (``rtsp://...``, ``/dev/video0``); or an
            iterable of arrays, PIL images, :class:`Frame` or ``(time, image)``. A source that is already
            open is returned as it is, with its own sampling.
        fps: frames per second to sample.
        start: seconds; where to begin.
        end: seconds, exclusive; ``None`` for all.
        max_side: pixels; larger frames are scaled down to it.
        source_fps: at which rate images and arrays were taken; ``None``: already sampled at ``fps``.
        threads: decoder threads.
        options: for FFmpeg's demuxer, such as ``{"rtsp_transport": "tcp"}``.

    Returns:
        A single pass over frames; close it, or use it in a ``with`` block.

    Raises:
        SettingError: a rate, time or size that makes no sense.
        InputError: nothing there to read as frames.

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
    rate = source_fps or fps
    if not isinstance(spec, str | Path):
        array = as_array(spec)
        if array is not None:
            return array_frames(array, sampling, name="array", source_fps=rate)
        if not isinstance(spec, Iterable):
            raise InputError(
                f"a {type(spec).__name__} holds no frames: give a path, a URL, an array or frames"
            )
        return IteratorSource(spec, sampling, name="frames", source_fps=rate)

    url = str(spec)
    path = Path(spec).expanduser()
    if url.startswith("/dev/video") or (_URL.match(url) and not path.exists()):
        name = re.sub(r"//[^/]*@", "//", url)
        live = not url.startswith(_SEEKABLE)
        return VideoSource(url, sampling, name=name, live=live, threads=threads, options=options)
    _check_path(path)
    if path.is_dir():
        return image_folder(path, sampling, source_fps=rate)
    if path.suffix.lower() in (".npy", ".npz"):
        return array_frames(_load_array(path), sampling, name=str(path), source_fps=rate)
    return VideoSource(str(path), sampling, name=str(path), threads=threads, options=options)


def _check_path(path: Path) -> None:
    if not path.exists():
        if not path.parent.is_dir():
            raise InputError(f"{path}: no such file; the folder {path.parent} does not exist either")
        siblings = [sibling.name for sibling in path.parent.iterdir()]
        raise InputError(f"{path}: no such file. {did_you_mean(path.name, siblings)}".rstrip())
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")


def _load_array(path: Path) -> np.ndarray:
    """The array of a file; ``.npy`` stays on disk and is read frame by frame."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            if len(names) != 1 and "frames" not in names:
                raise InputError(f"{path}: holds {', '.join(names) or 'no array'}; name one of them 'frames'")
            array: np.ndarray = loaded["frames" if "frames" in names else names[0]]
            return array
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: not a numpy file that can be read ({error})") from error
