"""Video files, URLs and cameras through PyAV, decoded as a stream: memory is flat whatever the length."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, dropwhile
from typing import cast

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Int32, UInt8

from hermes.errors import InputError
from hermes.video.source import FrameSource, Pixels, Sampling, TimedImage

_MICROSECOND = 1e-6  # the unit of container-level times in FFmpeg
_TIMEOUT = 30.0  # seconds without data after which a stream counts as ended


class VideoSource(FrameSource):
    """A video file, URL or camera.

    Times are ``pts * time_base`` minus the container's start time; a picture without a timestamp follows the
    one before. The tolerance of the sampling rule is a microsecond and, for a time base of 1 ms or finer,
    half a tick. Only sampled pictures are converted to RGB. The display matrix is applied (rotation by
    quarter turns, mirroring). Where timestamps jump back (joined recordings), the clock goes on from where it
    was. Damaged or missing parts end in a warning that says how many seconds were lost, not in an error; with
    more than one thread the decoder may drop a few good pictures next to the damage.

    Cameras and network streams were tested with local files, pipes and servers only, not with hardware.

    Args:
        url: what PyAV opens: a path, ``rtsp://...``, ``http://...``, ``/dev/video0``.
        name: shown in messages.
        live: no seeking; ``start`` drops frames instead.
        threads: decoder threads.
        options: passed to FFmpeg's demuxer, for example ``{"rtsp_transport": "tcp"}``.

    Raises:
        InputError: unreadable, or no video stream.
    """

    def __init__(
        self,
        url: str,
        sampling: Sampling,
        *,
        name: str,
        live: bool = False,
        threads: int = 2,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._container = _open(url, name, dict(options or {}))
        self._stream = stream = _video_stream(self._container, name)
        stream.codec_context.thread_count = threads
        stream.codec_context.thread_type = ThreadType.AUTO
        self._tick = float(stream.time_base or _MICROSECOND)
        self._rate = float(stream.average_rate or stream.guessed_rate or 25)
        start_time = self._container.start_time
        # None until the first picture, which is then time zero.
        self._origin = None if start_time is None else start_time * _MICROSECOND
        duration, self._slack = self._declared_duration()
        # AVI stores no presentation times, only the order of decoding, which FFmpeg hands on to the pictures
        # as they are shown, late by the reordering delay.
        self._avi = self._container.format.name == "avi"
        if self._avi and self._origin is not None:
            self._origin += stream.codec_context.reorder_depth * self._tick
        self._live = live
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._matrix: Int32[np.ndarray, " 9"] | None = None
        self._damaged = 0
        self._stopped_by = ""
        # A coarser tick is the frame rate itself, and rounds nothing. FFmpeg rounds the start time to 1 us.
        tolerance = _MICROSECOND + (self._tick / 2 if self._tick <= 0.001 else 0.0)
        super().__init__(name, sampling, duration=duration, tolerance=tolerance)

    def close(self) -> None:
        """Release the decoder; no frame comes after."""
        super().close()
        self._container.close()

    def images(self) -> Iterator[TimedImage]:
        """Every picture on the stream's clock, converted to RGB once it is sampled."""
        shift = until = 0.0
        complete = False
        try:
            for picture in self._from_start():
                duration = (picture.duration or 0) * self._tick or 1 / self._rate
                time = self._time(picture)
                time = until if time is None else time + shift
                jump = time - until
                if jump < -max(1.0, 2 * duration) or (self._live and jump > _TIMEOUT):
                    self.warn(f"timestamps jump by {jump:+.2f} s at {until:.2f} s; the clock goes on")
                    shift -= jump
                    time = until
                until = time + duration
                yield TimedImage(time, duration, partial(self._rgb, picture))
            complete = True
        finally:
            self._report_loss(until, complete)

    def _time(self, picture: VideoFrame) -> float | None:
        stamp = picture.dts if self._avi or picture.pts is None else picture.pts
        if stamp is None:
            return None
        if self._origin is None:
            self._origin = stamp * self._tick
        return stamp * self._tick - self._origin

    def _from_start(self) -> Iterator[VideoFrame]:
        """Pictures from one at or before ``start``, near it where seeking works, else from the first."""
        start = self.sampling.start
        if start <= 0 or self._live or self._origin is None or self.duration is None:
            return self._pictures()
        # Formats without an index may land after the target: then try from earlier, at last from the start.
        for target in (start, start - 10, 0.0):
            try:
                self._damaged = 0
                self._container.seek(int((max(target, 0.0) + self._origin) / self._tick), stream=self._stream)
            except av.FFmpegError:
                continue
            pictures = self._pictures(from_keyframe=target > 0)
            first = next(pictures, None)
            time = None if first is None else self._time(first)
            if first is not None and (target <= 0 or (time is not None and time <= start)):
                return chain([first], pictures)
        return self._pictures()

    def _pictures(self, from_keyframe: bool = False) -> Iterator[VideoFrame]:
        packets: Iterator[Packet[VideoStream]] = self._container.demux(self._stream)
        if from_keyframe:  # a seek may land between two, and some decoders then show rubbish
            packets = dropwhile(lambda packet: not packet.is_keyframe, packets)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                # The end of what can be read; pictures still inside the decoder come out below.
                self._stopped_by = error.strerror or type(error).__name__
                packet = None
            try:
                pictures = self._stream.decode(packet)
            except av.EOFError:
                return
            except av.FFmpegError:
                self._damaged += 1
                pictures = []
            yield from pictures
            if packet is None:
                return

    def _rgb(self, picture: VideoFrame) -> Pixels:
        if self._size is None:
            # A stream that changes its resolution half-way keeps the size it began with. The matrix is asked
            # for just once: a picture asked for its side data lives on until the garbage collector comes.
            self._size = self.sampling.size(picture.width, picture.height)
            matrix = picture.side_data.get("DISPLAYMATRIX")
            if matrix is not None:
                self._matrix = np.frombuffer(bytes(cast(SideData, matrix)), np.int32)
        width, height = self._size
        scaled = (picture.width, picture.height) != self._size
        converted = self._reformatter.reformat(
            picture, width, height, "rgb24", interpolation="AREA" if scaled else "BILINEAR", threads=1
        )
        image = np.ascontiguousarray(converted.to_ndarray(), np.uint8)
        return image if self._matrix is None else orient(image, self._matrix)

    def _declared_duration(self) -> tuple[float | None, float]:
        """Seconds from time zero to the declared end of the video, and how much less is not yet a loss."""
        stream, origin = self._stream, self._origin or 0.0
        frame = 1.5 / self._rate
        if stream.duration is not None:
            begin = origin if stream.start_time is None else stream.start_time * self._tick
            return begin + stream.duration * self._tick - origin, frame
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        if tag:  # Matroska
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - origin, frame
        if self._container.duration:
            # That of the longest stream, perhaps not of the video.
            return self._container.duration * _MICROSECOND, max(1.0, frame)
        return None, 0.0

    def _report_loss(self, until: float, complete: bool) -> None:
        parts = []
        if complete and self.duration is not None:
            lost = min(self.duration, self.sampling.end or self.duration) - until
            if lost > self._slack:
                parts.append(f"the last {lost:.1f} s of {self.duration:.1f} s are lost (cut off or damaged)")
        if self._damaged:
            s = "s" * (self._damaged > 1)
            seconds = self._damaged / self._rate
            parts.append(f"{self._damaged} damaged packet{s} skipped (about {seconds:.1f} s)")
        if self._stopped_by:
            parts.append(f"reading stopped at {until:.1f} s: {self._stopped_by}")
        if parts:
            self.warn("; ".join(parts))


def orient(image: Pixels, matrix: Int32[np.ndarray, " 9"]) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Turn or mirror an image as a container's display matrix says, by quarter turns.

    After FFmpeg's ``libavutil/display.h``: x' = a x + c y, y' = b x + d y for the matrix (a, b, u, c, d, v,
    x, y, w).

    >>> image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    >>> quarter = np.array([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30], np.int32)
    >>> orient(image, quarter).shape
    (2, 1, 3)
    """
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    x_sign, y_sign = a, d
    if abs(b) > abs(a):
        image = image.swapaxes(0, 1)
        x_sign, y_sign = c, b
    return np.ascontiguousarray(image[:: -1 if y_sign < 0 else 1, :: -1 if x_sign < 0 else 1])


def _open(url: str, name: str, options: dict[str, str]) -> InputContainer:
    form = "v4l2" if url.startswith("/dev/video") and "video4linux2,v4l2" in av.formats_available else None
    try:
        container: InputContainer = av.open(url, "r", format=form, options=options, timeout=_TIMEOUT)
    except (av.FFmpegError, OSError) as error:
        # The error's own text may hold a URL's password.
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"{name}: not a video that FFmpeg can read ({reason})") from None
    if container.format.name == "tty":  # FFmpeg "plays" any text file
        container.close()
        raise InputError(f"{name}: a text file, not a video")
    return container


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # cover art is no video
            return stream
    others = ", ".join(f"{stream.type}: {stream.codec_context.name}" for stream in container.streams.audio)
    container.close()
    raise InputError(f"{name}: has no video stream ({others or 'no audio either'})")
