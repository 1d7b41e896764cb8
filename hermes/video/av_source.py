"""Video files, URLs and cameras through PyAV, decoded as a stream: memory is flat whatever the length."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from typing import cast

import av
import numpy as np
from av.codec.context import ThreadType
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Int32, UInt8
from PIL import Image

from hermes.errors import InputError
from hermes.video.clock import Clock
from hermes.video.container import Media, Opened
from hermes.video.limits import Limits
from hermes.video.pictures import picture_size
from hermes.video.scanning import Scan, scan
from hermes.video.source import FrameSource, Pixels, Sampling, TimedImage

_MICROSECOND = 1e-6  # the unit of container-level times in FFmpeg
# A first picture that comes so soon is there from time zero: encoders begin sound a little earlier.
_AT_ONCE = 0.1
_EXIF_CODECS = ("mjpeg", "png", "apng", "webp")
# EXIF's orientation as (a, b, c, d) of a display matrix.
_ORIENTATIONS = {
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


class VideoSource(FrameSource):
    """A video file, URL or camera.

    Times are ``pts * time_base`` minus the container's start time, as a player shows them; before the first
    picture there is none. A picture without a timestamp follows the one before. The tolerance of the sampling
    rule is a microsecond and, for a time base of 1 ms or finer, half a tick. Only sampled pictures are
    converted to RGB. The display matrix is applied (rotation by quarter turns, mirroring). Time stamps that
    leap, or run back (joined recordings), end in a warning; the clock goes on from where it was, see
    :class:`hermes.video.clock.Clock`. Damaged or missing parts end in a warning that says how many seconds
    were lost, not in an error; with more than one thread the decoder may drop a few good pictures next to
    the damage.

    From ``start`` on, pictures and times are those of a file read from its beginning (damaged parts may be
    mended differently). Of files that can be opened again, packets before ``start`` are read but not decoded
    as far as the codec allows.

    Cameras and network streams were tested with local files, pipes and servers only, not with hardware.

    Args:
        media: where the bytes come from.
        threads: decoder threads.
        limits: what is refused.

    Raises:
        InputError: unreadable, no video stream, no decoder, pictures that are too large.
    """

    def __init__(self, media: Media, sampling: Sampling, *, threads: int = 2, limits: Limits) -> None:
        self._media = media
        self._limits = limits
        self._threads = threads
        self._max_gap = limits.gap(media.live)
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._matrix: Int32[np.ndarray, " 9"] | None = None
        self._exif: bytes | None = None  # of the first packet, for its orientation
        self._damaged = 0
        self._stopped_by = ""
        self._begun = False
        self._overall = False
        self._heard = 0.0
        self._use(media.open(limits))
        # A coarser tick is the frame rate itself, and rounds nothing. FFmpeg rounds the start time to 1 us.
        tolerance = _MICROSECOND + (self._tick / 2 if self._tick <= 0.001 else 0.0)
        super().__init__(media.name, sampling, tolerance=tolerance)
        try:
            self._check_size()
            self.declared, self._slack = self._declared_duration()
            if self.declared is not None and sampling.start >= self.declared:
                self._check_start(self.duration)
        except InputError:
            self._opened.close()
            raise

    def _use(self, opened: Opened) -> None:
        """Read from this container from now on, from its beginning."""
        self._opened = opened
        self._stream = stream = opened.stream
        stream.codec_context.thread_count = self._threads
        stream.codec_context.thread_type = ThreadType.AUTO
        stream.codec_context.options = {"max_pixels": str(min(self._limits.max_pixels_decoded, 2**31 - 1))}
        self._tick = float(stream.time_base or 0) or _MICROSECOND
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self._rate = rate if 0 < rate <= 1e6 else 25.0
        start_time = opened.container.start_time
        # None until the first picture, which is then time zero.
        self._origin = None if start_time is None else start_time * _MICROSECOND
        if self._origin is not None and self._origin < 0 <= (stream.start_time or 0):
            self._origin = 0.0  # sound that is decoded, but not heard, comes before
        # AVI stores no presentation times, only the order of decoding, which FFmpeg hands on to the pictures
        # as they are shown, late by the reordering delay.
        self._avi = opened.container.format.name == "avi"
        # MPEG program streams store few times; FFmpeg guesses the others, not always well.
        self._guessed = opened.container.format.name == "mpeg"
        self._delay = stream.codec_context.reorder_depth * self._tick if self._avi else 0.0

    def close(self) -> None:
        """Release the decoder; no frame comes after."""
        super().close()
        self._opened.close()

    def _measure(self) -> float | None:
        """Where the pictures end: packets are read for it, not decoded."""
        if not self._media.again or (self._begun and self._media.kept):
            return None
        return self._scan(whole=True).end

    def _scan(self, whole: bool) -> Scan:
        opened = self._media.open(self._limits)
        try:
            return scan(
                _until_damage(opened.container.demux(opened.stream)),
                opened.stream,
                origin=self._origin,
                tick=self._tick,
                frame=1 / self._rate,
                max_gap=self._max_gap,
                decoding_times=self._avi,
                guessed_times=self._guessed,
                start=self.sampling.start + self.tolerance,
                whole=whole,
            )
        finally:
            opened.close()
            if self._media.kept:  # the one reader of the bytes was moved
                self._again()

    def _again(self) -> None:
        """Begin again."""
        self._opened.close()
        self._damaged = 0
        self._stopped_by = ""
        self._use(self._media.open(self._limits))

    def images(self) -> Iterator[TimedImage]:
        """Every picture on the stream's clock, converted to RGB once it is sampled."""
        self._begun = True
        complete = False
        pictures, begin = self._from_start()
        clock = Clock(self._max_gap, self.warn, begin)
        first = True
        try:
            for picture in pictures:
                self._limits.check_picture(self.name, picture.width, picture.height)
                duration = (picture.duration or 0) * self._tick
                time = clock.time(self._stamp(picture), duration if duration > 0 else 1 / self._rate)
                if first and time <= _AT_ONCE:
                    time = min(time, 0.0)
                first = False
                yield TimedImage(time, clock.until - time, partial(self._rgb, picture))
            complete = True
            self.duration = round(clock.until, 6)
        finally:
            self._report_loss(clock, complete)

    def _stamp(self, picture: VideoFrame) -> float | None:
        """Seconds as the file says."""
        stamp = picture.dts if self._avi or picture.pts is None else picture.pts
        if stamp is None:
            return None
        if self._origin is None:
            self._origin = stamp * self._tick
        return stamp * self._tick - self._origin - self._delay

    def _from_start(self) -> tuple[Iterator[VideoFrame], float]:
        """Pictures from the one on screen at ``start``, else from the first of all; the first one's time."""
        if self.sampling.start > 0 and self._media.again and self._origin is not None:
            found = self._scan(whole=False)
            if found.entry:
                pictures = self._entered(found)
                if pictures is not None:
                    return pictures, found.time
                self._again()
        return self._pictures(), 0.0

    def _entered(self, found: Scan) -> Iterator[VideoFrame] | None:
        """Pictures decoded from a packet on; ``None`` if they may differ from those of the whole file."""
        pictures = self._pictures(found.entry)
        shown: VideoFrame | None = None
        for picture in pictures:
            time = self._stamp(picture)
            if time is None or self._damaged or picture.is_corrupt:
                return None
            if shown is None and time < found.time - _MICROSECOND:
                continue  # needs what comes before
            if shown is None and not picture.key_frame:
                return None
            if shown is not None and time > self.sampling.start + self.tolerance:
                return chain([shown, picture], pictures)
            shown = picture
        return None if shown is None or self._damaged else iter([shown])

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Those of the video; how far the others go is kept where the file says only how long all are."""
        others = self._opened.container.streams.audio if self._overall else ()
        packets: Iterator[Packet[Stream]] = self._opened.container.demux(self._stream, *others)
        for packet in packets:
            if packet.stream_index == self._stream.index:
                yield cast("Packet[VideoStream]", packet)
            elif packet.pts is not None and packet.time_base:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._heard = max(self._heard, end - (self._origin or 0.0))

    def _pictures(self, entry: int = 0) -> Iterator[VideoFrame]:
        packets = islice(self._packets(), entry, None)
        while True:
            try:
                packet = next(packets, None)
            except IndexError:  # PyAV stumbles at the end where streams came up half-way
                packet = None
            except (av.FFmpegError, OSError) as error:
                # The end of what can be read; pictures still inside the decoder come out below.
                self._stopped_by = getattr(error, "strerror", None) or type(error).__name__
                packet = None
            if packet is not None and packet.size and self._exif is None:
                self._exif = bytes(packet) if self._stream.codec_context.name in _EXIF_CODECS else b""
            try:
                pictures = self._stream.decode(packet)
            except av.EOFError:
                return
            except (av.FFmpegError, ValueError):
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
            self._matrix = self._display_matrix(picture)
        width, height = self._size
        scaled = (picture.width, picture.height) != self._size
        try:
            converted = self._reformatter.reformat(
                picture, width, height, "rgb24", interpolation="AREA" if scaled else "BILINEAR", threads=1
            )
        except (av.FFmpegError, ValueError, MemoryError) as error:
            form = f"{picture.format.name} {picture.width}x{picture.height}"
            raise InputError(f"{self.name}: a picture that cannot be shown ({form})") from error
        image = np.ascontiguousarray(converted.to_ndarray(), np.uint8)
        return image if self._matrix is None else orient(image, self._matrix)

    def _display_matrix(self, picture: VideoFrame) -> Int32[np.ndarray, " 9"] | None:
        try:
            matrix = picture.side_data.get("DISPLAYMATRIX")
        except ValueError:  # beside data of a kind that PyAV does not know, such as EXIF
            turned = {90: 8, -90: 6, 180: 3, -180: 3}.get(picture.rotation, 1)
            with suppress(OSError, SyntaxError, ValueError):
                turned = Image.open(io.BytesIO(self._exif or b"")).getexif().get(0x0112, turned)
            a, b, c, d = _ORIENTATIONS.get(turned, (1, 0, 0, 1))
            return np.array([a, b, 0, c, d, 0, 0, 0, 1], np.int32)
        if matrix is None:
            return None
        numbers = np.frombuffer(bytes(cast(SideData, matrix)), np.int32)
        return numbers if len(numbers) == 9 else None

    def _check_size(self) -> None:
        context = self._stream.codec_context
        # FFmpeg says nothing of a picture that is too large, but its own header may.
        size = (context.width, context.height)
        if 0 in size and self._media.bytes is not None and self._media.again:
            file = self._media.bytes()
            size = picture_size(file) or size
            self._media.release(file)
        self._limits.check_picture(self.name, *size)

    def _declared_duration(self) -> tuple[float | None, float]:
        """Seconds from time zero to the declared end of the video, and how much less is not yet a loss."""
        stream, origin = self._stream, self._origin or 0.0
        frame = 1.5 / self._rate
        if (stream.duration or 0) > 0:
            begin = origin if stream.start_time is None else stream.start_time * self._tick
            return begin + (stream.duration or 0) * self._tick - origin, frame
        tag = re.fullmatch(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        if tag:  # Matroska
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - origin, frame
        overall = self._opened.container.duration or 0
        if overall > 0:
            self._overall = True  # that of the longest stream, perhaps not of the video
            return overall * _MICROSECOND, max(1.0, frame)
        return None, 0.0

    def _report_loss(self, clock: Clock, complete: bool) -> None:
        parts = []
        if complete and self.declared is not None and not clock.jumps:
            lost = min(self.declared, self.sampling.end or self.declared) - max(clock.until, self._heard)
            if lost > self._slack:
                parts.append(f"the last {lost:.1f} s of {self.declared:.1f} s are lost (cut off or damaged)")
        if self._damaged:
            s = "s" * (self._damaged > 1)
            seconds = self._damaged / self._rate
            parts.append(f"{self._damaged} damaged packet{s} skipped (about {seconds:.1f} s)")
        if self._stopped_by:
            parts.append(f"reading stopped at {clock.until:.1f} s: {self._stopped_by}")
        if clock.jumps > 1:
            parts.append(f"timestamps jump {clock.jumps} times in all")
        if clock.repeats * 20 > clock.pictures and not self._guessed:  # a few are usual in some containers
            parts.append(f"{clock.repeats} of {clock.pictures} timestamps are not later than the one before")
        if parts:
            self.warn("; ".join(parts))


def _until_damage(packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    with suppress(av.FFmpegError, OSError, IndexError):
        yield from packets


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
