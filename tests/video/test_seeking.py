"""From any time on, a video shows what it shows when it is read from its beginning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from hermes.errors import InputError
from hermes.video import Frame, open_source
from tests.support.video_files import numbered, read

COUNT = 60
OPEN_GROUPS = {"x264-params": "open-gop=1"}
REFRESH = {"x264-params": "intra-refresh=1"}
CASES = {
    "mp4": (".mp4", "libx264", 12, 3, {}),
    "mp4, open groups": (".mp4", "libx264", 12, 3, OPEN_GROUPS),
    "mp4, one group": (".mp4", "libx264", 250, 3, {}),
    "mp4, no key frame but the first": (".mp4", "libx264", 12, 0, REFRESH),
    "mp4, every picture a key": (".mp4", "mjpeg", 1, 0, {}),
    "mov": (".mov", "mpeg4", 12, 2, {}),
    "mkv": (".mkv", "libx264", 12, 3, {}),
    "mkv, hevc": (".mkv", "libx265", 12, 3, {"x265-params": "log-level=none"}),
    "mkv, another codec": (".mkv", "ffv1", 12, 0, {}),
    "webm": (".webm", "libvpx", 12, 0, {}),
    "avi": (".avi", "mpeg4", 12, 0, {}),
    "avi, reordered": (".avi", "mpeg4", 12, 3, {}),
    "avi, h264": (".avi", "libx264", 12, 3, {}),
    "flv": (".flv", "flv", 12, 0, {}),
    "flv, h264": (".flv", "libx264", 12, 3, {}),
    "ts": (".ts", "libx264", 12, 3, {}),
    "ts, open groups": (".ts", "libx264", 12, 3, OPEN_GROUPS),
    "ts, one group": (".ts", "libx264", 250, 3, {}),
    "ts, mpeg2": (".ts", "mpeg2video", 12, 2, {}),
    "mpg": (".mpg", "mpeg2video", 12, 2, {}),
    "nut": (".nut", "mpeg4", 12, 3, {}),
    "asf": (".asf", "wmv2", 12, 0, {}),
    "gif": (".gif", "gif", 12, 0, {}),
    "raw": (".h264", "libx264", 12, 3, {}),
    "y4m": (".y4m", "wrapped_avframe", 12, 0, {}),
}


def write(path: Path, codec: str, group: int, b_frames: int, options: dict[str, str]) -> Path:
    if codec not in av.codecs_available:
        pytest.skip(f"needs {codec}")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=25, options=options))
        stream.width, stream.height = 64, 48
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        context = stream.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = group, b_frames, 1
        for image in numbered(COUNT):
            noisy = image * 0.7 + rng.integers(0, 60, image.shape)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy.astype(np.uint8))))
        container.mux(stream.encode(None))
    return path


def seen(frames: list[Frame]) -> list[tuple[float, bytes]]:
    return [(round(frame.time, 6), frame.image.tobytes()) for frame in frames]


@pytest.mark.parametrize("name", CASES)
def test_a_start_changes_no_picture_and_no_time(name: str, tmp_path: Path) -> None:
    suffix, *how = CASES[name]
    path = write(tmp_path / f"a{suffix}", *how)  # type: ignore[arg-type]
    whole = seen(read(path, fps=25))
    assert len(whole) >= COUNT - 1
    for first, last in ((1, None), (23, 40), (37, None)):
        end = None if last is None else last / 25
        for spec in (path, io.BytesIO(path.read_bytes())):
            assert seen(read(spec, fps=25, start=first / 25, end=end)) == whole[first:last]


@pytest.mark.parametrize("name", CASES)
def test_the_duration_is_where_the_pictures_end(name: str, tmp_path: Path) -> None:
    suffix, *how = CASES[name]
    path = write(tmp_path / f"a{suffix}", *how)  # type: ignore[arg-type]
    with open_source(path, fps=25) as source:
        measured = source.duration
        assert len(list(source)) == COUNT
        assert source.duration == pytest.approx(measured, abs=0.002)
        assert source.duration == pytest.approx(COUNT / 25, abs=0.002)
        assert not source.warnings
    with pytest.raises(InputError, match="is past the end"):
        read(path, start=COUNT / 25 + 0.1)


def test_packets_before_the_start_are_not_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", "mpeg2video", 12, 2, {})
    with open_source(path, fps=25, start=2) as source:
        assert 1.5 < next(source.images()).time <= 2


def test_a_repeated_time_stamp_moves_what_follows_from_a_start_too(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = cast(VideoStream, container.add_stream("mjpeg", rate=25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i, image in enumerate(numbered(COUNT)):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image)):
                stamp = (40 * i) if i % 5 else 40 * i + 40
                packet.pts = packet.dts = stamp
                packet.time_base = stream.codec_context.time_base / 40
                container.mux(packet)
    whole = seen(read(tmp_path / "a.mkv", fps=25))
    assert seen(read(tmp_path / "a.mkv", fps=25, start=30 / 25)) == whole[30:]
