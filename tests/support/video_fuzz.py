"""Damaged videos, read one after another: run in a process of its own, which may die of one.

`python -m tests.support.video_fuzz FIRST COUNT` reads cases FIRST, FIRST + 1, ... and prints how each ended.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import resource
import sys
import time
from collections import Counter
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from hermes.errors import InputError
from hermes.video import open_source
from tests.support.video_files import mux_silence, numbered

MEMORY = 2 * 2**30  # bytes that the process may take
SECONDS = 20.0  # that one read may take

# Container: encoder, and whether there is sound besides.
CONTAINERS = {
    "mp4": ("mpeg4", True),
    "mov": ("libx264", False),
    "matroska": ("libx264", True),
    "webm": ("libvpx", False),
    "avi": ("mpeg4", False),
    "flv": ("flv", True),
    "mpegts": ("mpeg2video", False),
    "mpeg": ("mpeg1video", False),
    "gif": ("gif", False),
    "yuv4mpegpipe": ("wrapped_avframe", False),
    "asf": ("wmv2", False),
    "nut": ("mpeg4", False),
    "apng": ("apng", False),
    "mjpeg": ("mjpeg", False),
}


def written(form: str) -> bytes:
    """A small whole video in a container."""
    codec, sound = CONTAINERS[form]
    codec = codec if codec in av.codecs_available else "mpeg4"
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=25))
        stream.width, stream.height = 64, 48
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p", "apng": "rgb24"}.get(codec, "yuv420p")
        stream.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for image in numbered(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
        if audio is not None:
            mux_silence(container, audio, seconds=1)
    return file.getvalue()


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A copy with a few bytes changed, lost or doubled; half of the time near the beginning."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not out:  # all was lost already
            break
        at = int(rng.integers(0, min(len(out), 600 if rng.random() < 0.5 else len(out))))
        length = int(rng.integers(1, 65))
        kind = int(rng.integers(0, 6))
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            out[at : at + 4] = bytes(
                [0xFF, 0x7F, 0x00, 0x80][int(rng.integers(0, 4))] for _ in out[at : at + 4]
            )
        elif kind == 2:
            out[at : at + length] = rng.bytes(len(out[at : at + length]))
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[at : at + length]
        else:
            del out[max(at, 16) :]
    return bytes(out)


def case(number: int, whole: dict[str, bytes]) -> tuple[str, str]:
    """Read one damaged video; its container and how it ended."""
    rng = np.random.default_rng(number)
    form = list(CONTAINERS)[number % len(CONTAINERS)]
    data = damaged(whole[form], rng)
    start = float(rng.choice([0.0, 0.0, 0.2]))
    try:
        with open_source(io.BytesIO(data), fps=10, start=start, threads=1) as source:
            if rng.random() < 0.3:
                _ = source.duration
            count = sum(1 for _ in source)
    except InputError:
        return form, "refused"
    return form, "read with warnings" if source.warnings else f"read {'' if count else 'nothing'}".strip()


def main() -> None:
    """Read the cases that are asked for."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable()
    whole = {form: written(form) for form in CONTAINERS}
    ended: Counter[str] = Counter()
    slowest = 0.0
    for number in range(first, first + count):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        sys.stderr.write(f"case {number}\n")
        begun = time.perf_counter()
        form, how = case(number, whole)
        slowest = max(slowest, time.perf_counter() - begun)
        ended[f"{form}: {how}"] += 1
    faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for line, number in sorted(ended.items()):
        sys.stdout.write(f"{line}: {number}\n")
    sys.stdout.write(f"{count} reads, slowest {slowest:.2f} s, at most {peak} MB\n")


if __name__ == "__main__":
    main()
