"""What packets say undecoded: where the pictures end, and where decoding may begin."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

# Codecs whose key frames hide everything before them. Of all others every picture is decoded.
_RESTARTING = {
    "av1",
    "flv1",
    "h263",
    "h264",
    "hevc",
    "mjpeg",
    "mpeg1video",
    "mpeg2video",
    "mpeg4",
    "vp8",
    "vp9",
}
_START_CODE = re.compile(b"\0\0\1(.)", re.DOTALL)


class Scan(NamedTuple):
    """What was found.

    Attributes:
        entry: number of the last packet at which decoding may begin so that every picture from ``start`` on,
            and the one on screen at ``start``, is as if all had been decoded; 0: only the first.
        time: seconds at which that packet's picture appears.
        end: seconds at which the last picture ends; ``None`` where there is none.
    """

    entry: int
    time: float
    end: float | None


def scan(
    packets: Iterable[Packet[VideoStream]],
    stream: VideoStream,
    *,
    origin: float | None,
    tick: float,
    frame: float,
    max_gap: float,
    decoding_times: bool = False,
    guessed_times: bool = False,
    start: float = 0.0,
    whole: bool = True,
) -> Scan:
    """Go through packets in the order of decoding.

    Args:
        packets: of the stream, from its first.
        stream: where they come from.
        origin: seconds of the time stamps at time zero; ``None``: the first packet's.
        tick: seconds of a unit of the time stamps.
        frame: seconds that a picture stays, where it does not say.
        max_gap: seconds; time stamps that leap further do not count, see :class:`hermes.video.clock.Clock`.
        decoding_times: times of presentation are unknown.
        guessed_times: most packets have none of their own.
        start: seconds from which pictures are wanted.
        whole: go to the end, else no further than ``start`` needs.
    """
    context = stream.codec_context
    # Pictures come later than their packets by so many places.
    depth = context.reorder_depth
    restarting = context.codec.canonical_name in _RESTARTING and not (
        (decoding_times and depth) or guessed_times
    )
    entry, entered, last, end, shift = 0, 0.0, 0.0, 0.0, 0.0
    pictures, unstamped = 0, False
    recent: deque[int] = deque(maxlen=32)
    for number, packet in enumerate(packets):
        if not packet.size:
            continue
        stamp = packet.dts if decoding_times or packet.pts is None else packet.pts
        pictures += 1
        if stamp is None:
            unstamped, restarting, entry = True, False, 0
            continue
        if origin is None:
            origin = stamp * tick
        time = stamp * tick - origin + shift
        duration = min((packet.duration or 0) * tick or frame, max_gap)
        if not -max(1.0, (2 + depth) * duration) <= time - last <= max_gap:
            # The clock goes on, and what comes after can no longer be found by its time stamps.
            shift += end - time
            time = end
            restarting = False
            if last <= start:
                entry = 0
        # Pictures that repeat a time are moved, and move those that follow.
        if packet.has_sidedata("new_extradata") or stamp in recent or (time < last and not depth):
            restarting, entry = False, 0
        recent.append(stamp)
        if restarting and last < time <= start and _hides_the_past(packet, context):
            entry, entered = number, time
        last, end = max(last, time), max(end, time + duration)
        if not whole and packet.dts is not None and packet.dts * tick - origin > start:
            break
    if unstamped:
        end = max(end, pictures * frame)
    return Scan(entry, entered, round(end, 6) or None)


def _hides_the_past(packet: Packet[VideoStream], context: VideoCodecContext) -> bool:
    """Whether nothing that comes after a packet, and is shown after it, needs what comes before."""
    if not packet.is_keyframe or packet.is_discard or packet.is_corrupt:
        return False
    codec, data = context.codec.canonical_name, bytes(packet)
    if codec in ("mpeg1video", "mpeg2video"):
        return data.startswith(b"\0\0\1\xb3")  # with its sequence header
    if codec not in ("h264", "hevc"):
        return True
    units, apart = _units(data, context.extradata or b"", hevc=codec == "hevc")
    # Some files call other pictures key frames, too, whose successors may refer to what came before.
    if codec == "h264":
        return 5 in units and (apart or units >= {7, 8})
    return bool(units & set(range(16, 22))) and (apart or units >= {33, 34})


def _units(data: bytes, extradata: bytes, hevc: bool) -> tuple[set[int], bool]:
    """The types of a packet's NAL units, and whether parameter sets are stored apart from packets."""
    if extradata[:1] == b"\1" and len(extradata) > 22:
        size = (extradata[21 if hevc else 4] & 3) + 1
        heads, at = [], 0
        while at + size < len(data):
            heads.append(data[at + size])
            at += size + int.from_bytes(data[at : at + size])
    else:
        heads = [found[1][0] for found in _START_CODE.finditer(data)]
    return {head >> 1 & 63 if hevc else head & 31 for head in heads}, extradata[:1] == b"\1"
