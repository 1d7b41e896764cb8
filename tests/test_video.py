"""Reading video: true timestamps, every kind of source, every kind of bad input."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from hermes.errors import InputError, SettingError
from hermes.samples import CLIP, QUESTIONS
from hermes.video import (
    Frame,
    FrameSource,
    Sampling,
    TimedImage,
    open_source,
    sample,
    video_encoders,
    write_video,
)
from hermes.video.av_source import orient

NTSC = Fraction(30000, 1001)


def grey(level: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def numbered(count: int, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """Frames that say their number as 8 black or white bars, which survives any codec."""
    for number in range(count):
        bits = [(number >> bit) & 1 for bit in range(8)]
        bars = np.repeat(np.array(bits, np.uint8) * 255, width // 8)
        yield np.broadcast_to(bars[None, :, None], (height, width, 3)).copy()


def number(image: np.ndarray) -> int:
    bars = image.reshape(image.shape[0], 8, -1).mean(axis=(0, 2)) > 128
    return sum(1 << bit for bit in range(8) if bars[bit])


def write_timed(
    path: Path,
    stamps: Sequence[int],
    *,
    tick: Fraction = Fraction(1, 1000),
    codec: str = "mpeg4",
    images: Iterable[np.ndarray] | None = None,
    rotation: float | None = None,
    b_frames: int = 0,
) -> Path:
    """A video whose timestamps are set by hand."""
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=30))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = tick
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.gop_size = 12
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for stamp, image in zip(stamps, images or numbered(len(stamps)), strict=True):
            picture = av.VideoFrame.from_ndarray(image)
            picture.pts, picture.time_base = stamp, tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def mux_silence(container: OutputContainer, stream: AudioStream, seconds: float) -> None:
    for i in range(round(seconds * 16000 / 1024)):
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16000, i * 1024
        container.mux(stream.encode(sound))
    container.mux(stream.encode(None))


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def first_at_or_after(times: Sequence[float], fps: float, seconds: float) -> list[int]:
    """The rule, spelled out a second time: for dense sources it needs no repeats."""
    wanted = [k / fps for k in range(int(np.ceil(seconds * fps - 1e-6)))]
    return [next((i for i, time in enumerate(times) if time >= s - 0.0005), len(times) - 1) for s in wanted]


def read(spec: object, **settings: Any) -> list[Frame]:
    with open_source(spec, **settings) as source:  # type: ignore[arg-type]
        return list(source)


# sampling


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".webm"])
@pytest.mark.parametrize("fps", [1.0, 2.0, 7.5, 30000 / 1001])
def test_ntsc_rate_does_not_drift(tmp_path: Path, suffix: str, fps: float) -> None:
    path = tmp_path / f"ntsc{suffix}"
    write_video(path, numbered(250), NTSC)
    expected = first_at_or_after([i / float(NTSC) for i in range(250)], fps, 250 / float(NTSC))
    frames = read(path, fps=fps)
    assert [number(frame.image) for frame in frames] == expected
    assert [frame.time for frame in frames] == [k / fps for k in range(len(expected))]
    assert [frame.index for frame in frames] == list(range(len(expected)))


def test_ntsc_frame_numbers_spelled_out(tmp_path: Path) -> None:
    write_video(tmp_path / "ntsc.mp4", numbered(200), NTSC)
    # 30 frames last 1.001 s, so frame 30 k is the first after k seconds; rounding the rate would do this too,
    # but at two frames a second it would take frame 15, which is at 0.5005 s.
    assert [number(f.image) for f in read(tmp_path / "ntsc.mp4", fps=1)] == [0, 30, 60, 90, 120, 150, 180]
    assert [number(f.image) for f in read(tmp_path / "ntsc.mp4", fps=2)][:4] == [0, 15, 30, 45]


def test_ntsc_over_a_long_time() -> None:
    # 29.97 frames a second: after 1001 s exactly 30000 frames, not 30030.
    times = (TimedImage(i * 1001 / 30000, 1001 / 30000, lambda: grey(0)) for i in range(31000))
    picked = list(sample(times, Sampling(fps=1), 1e-6))
    assert picked[1001].time == pytest.approx(1001.0)
    assert len(picked) == 1035
    assert all(-1e-6 < image.time - k < 1001 / 30000 for k, image in enumerate(picked[:-1]))


def test_variable_frame_rate_follows_the_timestamps(tmp_path: Path) -> None:
    # 40 frames within the first second, then one every 300 ms, then dense again.
    stamps = (
        [25 * i for i in range(40)] + [1000 + 300 * i for i in range(20)] + [7000 + 20 * i for i in range(90)]
    )
    path = write_timed(tmp_path / "vfr.mkv", stamps)
    assert times_of(path) == pytest.approx([stamp / 1000 for stamp in stamps])
    frames = read(path, fps=2)
    shown = [stamps[number(frame.image)] / 1000 for frame in frames]
    #                0    .5   1.0  1.5  2.0  2.5  3.0  3.5  4.0  4.5  5.0  5.5  6.0  6.5  7.0  7.5  8.0  8.5
    assert shown == [0.0, 0.5, 1.0, 1.6, 2.2, 2.5, 3.1, 3.7, 4.0, 4.6, 5.2, 5.5, 6.1, 6.7, 7.0, 7.5, 8.0, 8.5]


def test_a_gap_repeats_what_is_on_screen(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "gap.mkv", [0, 500, 1000, 6000, 6500])
    frames = read(path, fps=1)
    assert [number(frame.image) for frame in frames] == [0, 2, 2, 2, 2, 2, 3]
    assert frames[3].image is frames[2].image


def test_source_slower_than_the_sampling_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "slow.mp4", numbered(4), 1)
    frames = read(tmp_path / "slow.mp4", fps=3)
    assert [number(frame.image) for frame in frames] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert frames[-1].time == pytest.approx(11 / 3)


def test_container_start_time_is_subtracted(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "late.ts", [5000 + 100 * i for i in range(20)], codec="mpeg4")
    assert times_of(path)[0] > 4
    assert [number(frame.image) for frame in read(path, fps=5)] == list(range(0, 20, 2))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 3.0), (2.0, None), (3.3, 7.1), (7.95, None), (0.05, 0.06)])
def test_start_and_end_equal_cutting_the_whole(
    tmp_path: Path, suffix: str, start: float, end: float | None
) -> None:
    path = write_timed(tmp_path / f"cut{suffix}", range(200), tick=Fraction(1, 25))
    frames = read(path, fps=5, start=start, end=end)
    stop = 8.0 if end is None else end
    wanted = [start + k / 5 for k in range(int(np.ceil((stop - start) * 5 - 1e-6)))]
    assert [frame.time for frame in frames] == pytest.approx(wanted)
    expected = [min(199, int(np.ceil(time * 25 - 0.0125))) for time in wanted]
    assert [number(frame.image) for frame in frames] == expected


def test_seeking_reads_little(tmp_path: Path) -> None:
    write_timed(tmp_path / "long.mp4", range(250), tick=Fraction(1, 25))
    with open_source(tmp_path / "long.mp4", fps=25, start=9) as source:
        seen = [image.time for image in source.images()]
    assert 8.0 <= seen[0] <= 9.0
    assert seen[-1] == pytest.approx(9.96)


@pytest.mark.skipif("libx264" not in video_encoders(), reason="needs libx264")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_b_frames_come_in_order(tmp_path: Path, suffix: str) -> None:
    path = write_timed(tmp_path / f"b{suffix}", range(100), tick=Fraction(1, 25), codec="libx264", b_frames=3)
    assert [number(frame.image) for frame in read(path, fps=25)] == list(range(100))
    assert [number(frame.image) for frame in read(path, fps=25, start=2)] == list(range(50, 100))


def test_joined_recordings_keep_one_clock(tmp_path: Path) -> None:
    write_video(tmp_path / "one.ts", numbered(40), 10)
    (tmp_path / "two.ts").write_bytes((tmp_path / "one.ts").read_bytes() * 2)
    with open_source(tmp_path / "two.ts", fps=1) as source:
        assert [number(frame.image) for frame in source] == [0, 10, 20, 30] * 2
    assert len(source.warnings) == 1
    assert "jump" in source.warnings[0]


def test_stream_without_timestamps(tmp_path: Path) -> None:
    write_video(tmp_path / "raw.h264", numbered(100), 25)
    assert [number(frame.image) for frame in read(tmp_path / "raw.h264", fps=1)] == [0, 25, 50, 75]


def test_gif(tmp_path: Path) -> None:
    write_video(tmp_path / "a.gif", numbered(20), 10)
    assert [number(frame.image) for frame in read(tmp_path / "a.gif", fps=2)] == [0, 5, 10, 15]


def test_single_image_file(tmp_path: Path) -> None:
    Image.fromarray(grey(90)).save(tmp_path / "one.png")
    frames = read(tmp_path / "one.png")
    assert len(frames) == 1
    assert np.array_equal(frames[0].image, grey(90))


# pictures


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_rotation_metadata_is_applied(tmp_path: Path, turns: int) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32, 0] = 255  # a red corner, at the top left as stored
    path = write_timed(
        tmp_path / "turned.mp4", [0, 40], images=[image, image], rotation=90 * turns, codec="mpeg4"
    )
    # The container stores a counter-clockwise angle to show the picture at.
    expected = np.rot90(image, turns)
    shown = read(path)[0].image
    assert shown.shape == expected.shape
    assert shown.flags["C_CONTIGUOUS"]
    assert np.abs(shown.astype(int) - expected).mean() < 12


def test_orient_mirrors() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    one = 65536
    assert np.array_equal(orient(image, np.array([-one, 0, 0, 0, one, 0, 0, 0, 0], np.int32)), image[:, ::-1])
    assert np.array_equal(orient(image, np.array([one, 0, 0, 0, -one, 0, 0, 0, 0], np.int32)), image[::-1])
    transposed = image.swapaxes(0, 1)
    assert np.array_equal(orient(image, np.array([0, one, 0, one, 0, 0, 0, 0, 0], np.int32)), transposed)


@pytest.mark.parametrize(
    ("max_side", "size"), [(32, (24, 32)), (64, (48, 64)), (1000, (48, 64)), (1, (1, 1))]
)
def test_max_side(tmp_path: Path, max_side: int, size: tuple[int, int]) -> None:
    write_video(tmp_path / "a.mp4", [grey(200)] * 3, 1)
    Image.fromarray(grey(200)).save(tmp_path / "a.png")
    for spec in (tmp_path / "a.mp4", tmp_path, [grey(200)], grey(200)[None]):
        image = read(spec, max_side=max_side)[0].image
        assert image.shape == (*size, 3)
        assert abs(int(image.mean()) - 200) <= 3


def test_only_sampled_pictures_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", numbered(100), 25)
    converted = []
    with open_source(tmp_path / "a.mp4", fps=1) as source:
        convert = source._rgb  # type: ignore[attr-defined]

        def counted(picture: av.VideoFrame) -> np.ndarray:
            converted.append(picture)
            return cast(np.ndarray, convert(picture))

        monkeypatch.setattr(source, "_rgb", counted)
        assert len(list(source)) == 4
    assert len(converted) == 4


def test_resolution_change_keeps_the_first_size(tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", numbered(20, 48, 64), 10)
    write_video(tmp_path / "b.ts", numbered(20, 96, 128), 10)
    (tmp_path / "ab.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    frames = read(tmp_path / "ab.ts", fps=10)
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert [number(frame.image) for frame in frames] == [*range(20), *range(20)]


def test_reading_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for threads in (1, 4):
        one, two = read(CLIP, fps=2), read(CLIP, fps=2, threads=threads)
        assert len(one) == len(two) == 96
        assert all(
            np.array_equal(a.image, b.image) and a.time == b.time for a, b in zip(one, two, strict=True)
        )


# damage


def test_truncated_file_yields_what_decodes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (100, 48, 64, 3), np.uint8)
    write_video(tmp_path / "whole.mp4", noise, 10)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * 0.6)])
    whole, cut = read(tmp_path / "whole.mp4", fps=10), open_source(tmp_path / "cut.mp4", fps=10, threads=1)
    frames = list(cut)
    assert 50 <= len(frames) <= 65
    for a, b in zip(whole[:50], frames[:50], strict=True):
        assert np.array_equal(a.image, b.image)
    assert len(cut.warnings) == 1
    assert caplog.messages == cut.warnings
    assert f"the last {10 - len(frames) / 10:.1f} s of 10.0 s are lost" in cut.warnings[0]


def test_whole_files_give_no_warning(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv", ".avi", ".ts", ".webm"):
        write_video(tmp_path / f"a{suffix}", numbered(40), NTSC)
        for end in (None, 0.7):
            with open_source(tmp_path / f"a{suffix}", fps=2, end=end) as source:
                assert list(source)
                assert not source.warnings


def test_truncated_matroska(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mkv", numbered(100), 10)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with open_source(tmp_path / "cut.mkv", fps=10) as source:
        frames = list(source)
    assert 10 < len(frames) < 90
    assert f"the last {10 - len(frames) / 10:.1f} s of 10.0 s are lost" in source.warnings[0]


def test_sound_longer_than_the_pictures_is_no_loss(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = cast(VideoStream, container.add_stream("mpeg4", rate=10))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for i, image in enumerate(numbered(20)):
            picture = av.VideoFrame.from_ndarray(image)
            picture.pts = i
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        mux_silence(container, sound, seconds=6)
    with open_source(tmp_path / "a.mkv", fps=5) as source:
        assert [number(frame.image) for frame in source] == list(range(0, 20, 2))
        assert source.duration == pytest.approx(2.0, abs=0.05)
        assert not source.warnings


@pytest.mark.parametrize("end", [None, 9.0])
def test_damage_in_the_middle_is_survived_and_reported(tmp_path: Path, end: float | None) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (100, 48, 64, 3), np.uint8)
    write_video(tmp_path / "a.mp4", noise, 10, codec="libx264" if "libx264" in video_encoders() else None)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = bytes(20_000)
    (tmp_path / "a.mp4").write_bytes(bytes(data))
    with open_source(tmp_path / "a.mp4", fps=1, end=end) as source:
        frames = list(source)
    assert [frame.time for frame in frames] == [float(k) for k in range(int(end or 10))]
    assert "damaged packet" in source.warnings[0]
    assert "lost" not in source.warnings[0]


def test_closing_early_is_no_damage() -> None:
    with open_source(CLIP) as source:
        next(source)
    assert not source.warnings
    assert list(source) == []


# bad input


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.md").write_text("no image")
    (tmp_path / "notes.txt").write_text("no video\n" * 50)
    (tmp_path / "junk.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "junk.npy").write_bytes(b"junk")
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 junk")
    np.save(tmp_path / "float.npy", np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    write_video(tmp_path / "clip_one.mp4", numbered(20), 10)
    with av.open(str(tmp_path / "sound.m4a"), "w") as container:
        mux_silence(container, container.add_stream("aac", rate=16000, layout="mono"), seconds=0.1)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip_on.mp4", "no such file. Did you mean 'clip_one.mp4'?"),
        ("nowhere/clip.mp4", "does not exist either"),
        ("empty.mp4", "empty (0 bytes)"),
        ("folder", "a folder without images"),
        ("notes.txt", "a text file, not a video"),
        ("junk.mp4", "not a video that FFmpeg can read"),
        ("sound.m4a", "no video stream (audio: aac)"),
        ("junk.npy", "not a numpy file"),
        ("junk.npz", "not a numpy file"),
        ("float.npy", "got float64 of shape [2, 4, 4, 3]; needed: uint8 [T, H, W, 3]"),
        ("two.npz", "holds a, b; name one of them 'frames'"),
    ],
)
def test_bad_files(bad: Path, name: str, message: str) -> None:
    for spec in (bad / name, str(bad / name)):
        with pytest.raises(InputError) as caught:
            read(spec)
        assert message in str(caught.value)
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, "fps: got 0; allowed: a number above 0"),
        ({"fps": -1.0}, "fps: got -1.0"),
        ({"fps": float("nan")}, "fps: got nan"),
        ({"start": -1.0}, "start: got -1.0"),
        ({"start": 2.0, "end": 2.0}, "end: got 2.0; allowed: more than start=2 seconds"),
        ({"start": 2.0, "end": 1.0}, "end: got 1.0"),
        ({"max_side": 0}, "max_side: got 0"),
        ({"source_fps": 0.0}, "source_fps: got 0.0"),
        ({"threads": 0}, "threads: got 0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        open_source(CLIP, **settings)
    assert message in str(caught.value)


def test_start_past_the_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"start=48 s is past the end \(48.00 s\)"):
        open_source(CLIP, start=48)
    write_video(tmp_path / "raw.h264", numbered(50), 25)
    for spec in (tmp_path / "raw.h264", [grey(0)] * 2):
        with pytest.raises(InputError, match=r"start=3 s is past the end \(2.00 s\)"):
            read(spec, start=3)


def test_nothing_decodes(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(20), 10)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: data.index(b"mdat") + 4])
    with pytest.raises(InputError, match="no frame could be read"):
        read(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="no frame could be read"):
        read(iter([]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "Scale values to 0..255"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"transpose by \(0, 2, 3, 1\)"),
        (np.zeros((4, 4, 3), np.uint8), r"shape \[4, 4, 3\]; needed"),
        (np.zeros((2, 4, 4, 4), np.uint8), r"shape \[2, 4, 4, 4\]; needed"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"shape \[0, 4, 4, 3\]; needed"),
    ],
)
def test_bad_arrays(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(array)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([grey(0), "frame"], "frame 1 is neither an array nor a PIL image"),
        ([(grey(0), grey(0))], "frame 0 is neither"),
        ([grey(0).astype(float)], "frame 0 is float64"),
        ([grey(0)[0]], "needed: uint8"),
        ([(1.0, grey(0)), (0.5, grey(0))], "frame 1 has time 0.5 s after 1 s"),
        ([grey(0), grey(0, 24, 32)], "frame at 1.00 s is 32x24, those before it 64x48"),
    ],
)
def test_bad_iterators(frames: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(frames)


def test_not_a_source_at_all() -> None:
    with pytest.raises(InputError, match="a int holds no frames"):
        read(3)


# other sources


def test_image_folder(tmp_path: Path) -> None:
    for i in (10, 9, 1, 2):
        Image.fromarray(grey(i)).save(tmp_path / f"f{i}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    frames = read(tmp_path, fps=2)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 9, 10]
    assert [frame.time for frame in frames] == [0.0, 0.5, 1.0, 1.5]
    assert [int(frame.image[0, 0, 0]) for frame in read(tmp_path, fps=1, source_fps=2)] == [1, 9]
    (tmp_path / "f9.png").write_text("not an image")
    with pytest.raises(InputError, match=r"f9\.png: not an image"):
        read(tmp_path)


def test_images_are_turned_as_the_camera_says_and_become_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(grey(50)).convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    assert read(tmp_path)[0].image.shape == (64, 48, 3)


def test_arrays_and_their_files(tmp_path: Path) -> None:
    array = np.stack([grey(i) for i in range(10)])
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    np.savez_compressed(tmp_path / "b.npz", frames=array, other=np.zeros(3))
    torch = pytest.importorskip("torch")
    for spec in (array, tmp_path / "a.npy", tmp_path / "a.npz", tmp_path / "b.npz", torch.from_numpy(array)):
        with open_source(spec, fps=0.5, start=4, end=17) as source:
            assert source.duration == 20
            frames = list(source)
        assert [int(frame.image[0, 0, 0]) for frame in frames] == [2, 3, 4, 5, 6, 7, 8]
        assert [frame.time for frame in frames] == [4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0]
    assert [int(frame.image[0, 0, 0]) for frame in read(array, fps=1, source_fps=3)] == [0, 3, 6, 9]


def test_frames_are_copies_of_the_users_memory() -> None:
    array = np.stack([grey(5)])
    frame = read(array)[0]
    array[:] = 0
    assert int(frame.image[0, 0, 0]) == 5


def test_iterators() -> None:
    plain = [grey(0), Image.fromarray(grey(1)), pytest.importorskip("torch").from_numpy(grey(2))]
    assert [int(frame.image[0, 0, 0]) for frame in read(iter(plain), fps=4)] == [0, 1, 2]
    timed = ((i / 30, grey(i)) for i in range(90))
    assert [int(frame.image[0, 0, 0]) for frame in read(timed, fps=2)] == [0, 15, 30, 45, 60, 75]
    again = read(read(CLIP, fps=2, end=10), fps=2)
    assert [frame.time for frame in again] == [k / 2 for k in range(20)]


def test_an_endless_iterator_is_read_only_as_far_as_needed() -> None:
    taken = []

    def camera() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield grey(len(taken))

    source = open_source(camera(), fps=1, end=3)
    assert source.duration is None
    assert taken == []
    next(source)
    assert len(taken) == 1
    assert len(list(source)) == 2
    assert len(taken) == 3


def test_an_open_source_is_passed_through() -> None:
    with open_source(CLIP, fps=2) as source:
        assert open_source(source) is source
        assert isinstance(source, FrameSource)
        assert (source.fps, source.duration) == (2.0, 48.0)
        assert source.name == str(CLIP)


def test_urls(tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", numbered(60), 10)
    assert [number(frame.image) for frame in read((tmp_path / "a.ts").as_uri(), fps=1, start=2)] == [
        20,
        30,
        40,
        50,
    ]
    reader, writer = os.pipe()

    def send() -> None:
        with os.fdopen(writer, "wb") as stream:
            stream.write((tmp_path / "a.ts").read_bytes())

    thread = threading.Thread(target=send)
    thread.start()
    with open_source(f"pipe:{reader}", fps=1, start=2) as source:
        assert [number(frame.image) for frame in source] == [20, 30, 40, 50]
    thread.join()
    os.close(reader)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("start", [0, 4])
def test_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    # This server knows no ranges, so nothing can be sought.
    write_video(tmp_path / "a.mp4", numbered(60), 10)
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://user:secret@127.0.0.1:{server.server_port}/a.mp4"
        with open_source(url, fps=1, start=start) as source:
            assert [number(frame.image) for frame in source] == [10 * k for k in range(start, 6)]
            assert "secret" not in source.name
            assert not source.warnings
        with pytest.raises(InputError) as caught:
            open_source(url + ".missing")
        assert "secret" not in str(caught.value)
        server.shutdown()


# memory


def test_memory_is_flat(tmp_path: Path) -> None:
    # Few distinct pictures, so that writing 2000 of them is quick.
    pictures = [grey(level, 360, 640) for level in (0, 120, 250)]
    preset = "ultrafast" if "libx264" in video_encoders() else None
    write_video(tmp_path / "long.mp4", (pictures[i % 3] for i in range(2000)), 30, preset=preset)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    with open_source(tmp_path / "long.mp4", fps=30) as source:
        for frame in source:
            alive = [image for image in alive if image() is not None] + [weakref.ref(frame.image)]
            most = max(most, len(alive))
            if frame.index == 200:
                resident = _resident()
    assert frame.index == 1999
    assert most <= 2
    # With what Python does not see, such as FFmpeg's buffers; 1800 frames would be 1.2 GB.
    assert _resident() - resident < 30e6


def _resident() -> float:
    """Bytes in memory now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0.0


# writing


def test_written_files_are_reproducible_and_bad_ones_vanish(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, numbered(30), 10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()

    def failing() -> Iterator[np.ndarray]:
        yield grey(0)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_video(tmp_path / "half.mp4", failing(), 10)
    assert not (tmp_path / "half.mp4").exists()


def test_write_video_refuses(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"codec: got 'nope'; allowed: .*mpeg4"):
        write_video(tmp_path / "a.mp4", [grey(0)], 1, codec="nope")
    with pytest.raises(SettingError, match="mpeg4 has no such setting"):
        write_video(tmp_path / "a.mp4", [grey(0)], 1, codec="mpeg4", crf=20)
    with pytest.raises(InputError, match="no frame to write"):
        write_video(tmp_path / "a.mp4", [], 1)
    with pytest.raises(InputError, match="even width and height, got 63x48"):
        write_video(tmp_path / "a.mp4", [grey(0, 48, 63)], 1)
    with pytest.raises(InputError, match="cannot be written"):
        write_video(tmp_path / "nowhere" / "a.mp4", [grey(0)], 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", [name for name in video_encoders() if name not in ("gif", "libsvtav1")])
def test_every_encoder(tmp_path: Path, codec: str) -> None:
    write_video(tmp_path / "a.mkv", numbered(20), 10, codec=codec)
    assert [number(frame.image) for frame in read(tmp_path / "a.mkv", fps=10)] == list(range(20))


# the bundled clip


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    script = Path(__file__).parents[1] / "tools" / "render_sample.py"
    spec = importlib.util.spec_from_file_location("render_sample", script)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_clip_is_what_the_script_draws(renderer: ModuleType) -> None:
    assert CLIP.stat().st_size < 500_000
    with open_source(CLIP, fps=1) as source:
        assert source.duration == renderer.SECONDS
        for frame in source:
            drawn = renderer.draw_frame(frame.time)
            assert frame.image.shape == drawn.shape
            assert np.abs(frame.image.astype(int) - drawn).mean() < 6, frame.time


def test_the_questions_fit_the_clip(renderer: ModuleType) -> None:
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    assert questions == renderer.QUESTIONS
    for question in questions:
        assert 0 < question["time"] < renderer.SECONDS
        assert question["answer"]
        assert question["answer"] in question.get("choices", [question["answer"]])
