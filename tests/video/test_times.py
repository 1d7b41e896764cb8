"""Time stamps that lie, pictures that come late, files that end elsewhere than they say."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import pytest
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from hermes.config import settings_of
from hermes.errors import InputError, SettingError
from hermes.video import VideoConfig, open_source, write_video
from hermes.video.limits import Limits
from tests.support.video_files import grey, mux_silence, number, numbered, read


def mux(path: Path, stamps: Sequence[int], *, sound: float = 0.0, codec: str = "mjpeg") -> Path:
    """A file whose packets have just these time stamps (ms), beside seconds of silence from time zero."""
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=25))
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        audio = None
        if sound:
            audio = cast(AudioStream, container.add_stream("aac", rate=16000, layout="mono"))
        for stamp, image in zip(stamps, numbered(len(stamps)), strict=True):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image)):
                packet.pts = packet.dts = stamp
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
        if audio is not None:
            mux_silence(container, audio, sound)
    return path


LIES = {
    "a leap of days": [40 * i + (i >= 10) * 2**31 for i in range(20)],
    "a leap at the second picture": [40 * i + (i >= 1) * 10**10 for i in range(20)],
    "many leaps": [10**8 * i for i in range(20)],
    "a last picture far away": [40 * i for i in range(19)] + [10**9],
    "late altogether": [10**9 + 40 * i for i in range(20)],
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("start", [0.0, 0.2])
def test_leaps_are_bounded(name: str, start: float, tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mkv", LIES[name])
    with open_source(path, fps=25, start=start) as source:
        frames = list(source)
        assert len(frames) <= 25
        shown = [number(frame.image) for frame in frames]
        assert shown == sorted(shown)
        if name != "late altogether":  # of which zero is the first picture
            assert any("jump" in warning for warning in source.warnings)
        assert source.duration == pytest.approx(20 / 25, abs=0.1)


def test_a_long_still_picture_is_no_leap(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mkv", [0, 1000, 1000 * 1800])
    with open_source(path, fps=1) as source:
        frames = list(source)
        assert [number(frame.image) for frame in frames] == [0, *[1] * 1799, 2]
        assert not source.warnings
    with open_source(path, fps=25, max_gap=60) as source:
        assert [number(frame.image) for frame in source] == [0] * 25 + [1, 2]
        assert "jump by" in source.warnings[0]
    with pytest.raises(SettingError, match=r"video\.max_gap: got -1"):
        open_source(path, max_gap=-1)


def test_times_of_a_users_own_frames(tmp_path: Path) -> None:
    with open_source([(0.0, grey(0)), (1e9, grey(1))]) as source:
        assert len(list(source)) == 2
        assert "jump" in source.warnings[0]
    assert [frame.time for frame in read([(1.7e9, grey(0)), (1.7e9 + 1, grey(1))])] == [1.7e9, 1.7e9 + 1]
    for time in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="frame 1 has time"):
            read([(0.0, grey(0)), (time, grey(1))])


@pytest.mark.parametrize("step", [0, -100, -3000])
def test_time_stamps_that_repeat_or_run_backwards(step: int, tmp_path: Path) -> None:
    path = tmp_path / "a.flv"
    mux(path, [40 * i for i in range(30)], codec="flv")
    data = bytearray(path.read_bytes())
    stamp, at, count = 100_000, 13, 0
    while at + 11 < len(data):
        size = int.from_bytes(data[at + 1 : at + 4])
        if data[at] == 9:
            data[at + 4 : at + 7] = max(0, stamp).to_bytes(3)
            stamp += step
            count += 1
        at += 11 + size + 4
    path.write_bytes(bytes(data))
    assert count >= 30
    with open_source(path, fps=25) as source:
        frames = list(source)
        assert [frame.time for frame in frames] == sorted(frame.time for frame in frames)
        assert 1 <= len(frames) <= 200
        assert source.warnings


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".flv", ".ts", ".nut"])
@pytest.mark.parametrize("late", [400, 4900])
def test_before_the_first_picture_there_is_none(suffix: str, late: int, tmp_path: Path) -> None:
    codec = "flv" if suffix == ".flv" else "mpeg4"
    path = mux(tmp_path / f"a{suffix}", [late + 40 * i for i in range(50)], sound=8, codec=codec)
    frames = read(path, fps=2)
    first = 0.5 if late == 400 else 5.0
    assert [frame.time for frame in frames][:2] == [first, first + 0.5]
    assert frames[0].time == frames[0].index / 2
    shown = [number(frame.image) for frame in frames]
    for frame, seen in zip(frames, shown, strict=True):
        # At most what a player shows by then, but for the sound's own delay in the file.
        assert seen * 0.04 + late / 1000 <= frame.time + 0.08
    with pytest.raises(InputError, match="no frame is shown from start to end"):
        read(path, fps=2, end=late / 1000 - 0.2)


def test_before_the_first_of_a_users_own_frames_there_is_none() -> None:
    frames = read([(2.5, grey(0)), (3.5, grey(1))], fps=1)
    assert [(frame.time, int(frame.image[0, 0, 0])) for frame in frames] == [(3.0, 0), (4.0, 1)][
        : len(frames)
    ]


def test_sound_that_begins_a_little_earlier_hides_no_frame(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mkv", [66 + 40 * i for i in range(50)], sound=2)
    assert [frame.time for frame in read(path, fps=1)] == [0.0, 1.0, 2.0]


def _through_a_pipe(data: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def send() -> None:
        with suppress(BrokenPipeError), path.open("wb") as pipe:
            pipe.write(data)

    threading.Thread(target=send, daemon=True).start()
    return path


@pytest.mark.parametrize("name", ["y4m", "fragmented mp4", "ts", "mkv"])
def test_the_end_of_a_pipe_is_known_at_its_end(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{name.split()[-1]}"
    codec = "wrapped_avframe" if name == "y4m" else "mpeg4"
    options = {"movflags": "frag_keyframe+empty_moov"} if name == "fragmented mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=10))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in numbered(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
    with open_source(_through_a_pipe(path.read_bytes(), tmp_path), fps=1, start=2) as source:
        assert source.duration is None
        assert [number(frame.image) for frame in source] == [20, 30, 40, 50]
        assert source.duration == pytest.approx(6.0, abs=0.05)
        assert not source.warnings


def test_joined_recordings_are_as_long_as_both(tmp_path: Path) -> None:
    write_video(tmp_path / "one.ts", numbered(40), 10)
    (tmp_path / "all.ts").write_bytes((tmp_path / "one.ts").read_bytes() * 3)
    for start in (0, 5):
        with open_source(tmp_path / "all.ts", fps=1, start=start) as source:
            assert source.duration == pytest.approx(12.0, abs=0.05)
            assert [number(frame.image) for frame in source] == ([0, 10, 20, 30] * 3)[start:]


@pytest.mark.parametrize("suffix", [".flv", ".mkv", ".ts"])
def test_sound_beyond_the_pictures_is_neither_loss_nor_duration(suffix: str, tmp_path: Path) -> None:
    codec = "flv" if suffix == ".flv" else "mpeg4"
    path = mux(tmp_path / f"a{suffix}", [40 * i for i in range(50)], sound=9, codec=codec)
    with open_source(path, fps=5) as source:
        assert source.duration == pytest.approx(2.0, abs=0.1)
        list(source)
        assert not source.warnings


def test_a_cut_file_with_sound_is_still_reported(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.flv", [40 * i for i in range(250)], sound=10, codec="flv")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 4])
    with open_source(path, fps=5) as source:
        list(source)
        assert "are lost (cut off or damaged)" in source.warnings[0]


def test_a_header_that_lies_about_the_duration_is_not_believed(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", numbered(60), 10)
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data.replace(b"00:00:06.000", b"00:00:02.000"))
    with open_source(tmp_path / "a.mkv", fps=1, start=4) as source:
        assert source.duration == pytest.approx(6.0)
        assert [number(frame.image) for frame in source] == [40, 50]


def test_a_live_source_may_wait_for_less() -> None:
    assert (Limits().gap(), Limits().gap(live=True), Limits(max_gap=5).gap(live=True)) == (3600, 30, 5)


def test_every_setting_of_reading_is_taken() -> None:
    taken = inspect.signature(open_source).parameters
    own = {setting for setting in settings_of(VideoConfig) if setting not in ("fps", "start", "end")}
    assert set(VideoConfig().reading()) == own <= set(taken)
    for name in own:
        assert VideoConfig().reading()[name] in (taken[name].default, taken[name].default or {})
