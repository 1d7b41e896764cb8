"""Reading video files: true timestamps, rotation, damage, flat memory."""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image

from hermes.samples import CLIP
from hermes.video import Sampling, TimedImage, open_source, orient, sample, video_encoders, write_video
from tests.support.video_files import (
    NTSC,
    grey,
    mux_silence,
    number,
    numbered,
    on_screen,
    read,
    times_of,
    write_timed,
)

# sampling


def test_no_frame_shows_what_comes_after_its_time(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "after.mkv", [0, 990, 1001, 1999, 2000, 2001, 2950, 3100])
    assert [number(frame.image) for frame in read(path, fps=1)] == [0, 1, 4, 6]
    assert [number(frame.image) for frame in read(path, fps=1, start=1, end=3)] == [1, 4]


def test_a_multiple_of_the_rate_takes_every_nth(tmp_path: Path) -> None:
    write_video(tmp_path / "pal.mp4", numbered(250), 25)
    assert [number(frame.image) for frame in read(tmp_path / "pal.mp4", fps=1)] == list(range(0, 250, 25))


def test_slideshow(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "slides.mkv", [0, 2400, 2700, 7000])
    assert [number(frame.image) for frame in read(path, fps=1)] == [0, 0, 0, 2, 2, 2, 2, 3]
    assert [number(frame.image) for frame in read(path, fps=1, start=2.5, end=7.5)] == [1, 2, 2, 2, 2]
    assert [number(frame.image) for frame in read(path, fps=1, start=6.9, end=7)] == [2]


@pytest.mark.parametrize("fps", [0.7, 1.0, 4.0, 7.5, 20.0, 50.0])
@pytest.mark.parametrize("known_gaps", [False, True])
def test_any_times_follow_the_rule(fps: float, known_gaps: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        # A grid of 50 ms, so that many images are exactly at a sample time, up to the jitter.
        times = np.sort(rng.choice(80, rng.integers(1, 40), replace=False)) / 20
        times = times + rng.uniform(-1e-7, 1e-7, len(times))
        gaps = [*np.diff(times), 0.1] if known_gaps else [0.0] * len(times)
        duration, start = float(rng.choice([0.0, 0.3, 2.0])), float(rng.choice([0.0, 0.55, 3.0]))
        end = float(rng.choice([3.05, 3.5, math.inf]))
        images = [TimedImage(t, duration, lambda: grey(0), g) for t, g in zip(times, gaps, strict=True)]
        sampling = Sampling(fps, start, end)
        picked = list(sample(images, sampling, 1e-6))
        wanted = [s for k in range(400) if (s := sampling.time(k)) < end - 1e-9]
        wanted = [s for s in wanted if s >= times[0] - 1e-6]  # before the first there is none
        wanted = [s for s in wanted if s <= times[-1] + 1e-6 or s < times[-1] + duration - 1e-6]
        assert [image.time for image in picked] == [times[i] for i in on_screen(list(times), wanted, 1e-6)]


def test_at_most_two_images_are_held() -> None:
    class Picture:
        def __call__(self) -> np.ndarray:
            return grey(0)

    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    most = 0

    def images() -> Iterator[TimedImage]:
        nonlocal most
        for i in range(100):
            picture = Picture()
            alive.add(picture)
            most = max(most, len(alive))
            yield TimedImage(i / 10, 0.1, picture)
            del picture

    deque(sample(images(), Sampling(fps=3)), maxlen=0)
    assert most == 2


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".webm"])
@pytest.mark.parametrize("fps", [1.0, 2.0, 7.5, 30000 / 1001])
def test_ntsc_rate_does_not_drift(tmp_path: Path, suffix: str, fps: float) -> None:
    path = tmp_path / f"ntsc{suffix}"
    write_video(path, numbered(250), NTSC)
    times, tolerance = [i / float(NTSC) for i in range(250)], 2e-5
    if suffix in (".mkv", ".webm"):  # these round to whole milliseconds
        times, tolerance = [math.floor(1000 * i / NTSC + Fraction(1, 2)) / 1000 for i in range(250)], 0.000501
    wanted = [k / fps for k in range(math.ceil(250 / float(NTSC) * fps - 1e-6))]
    frames = read(path, fps=fps)
    assert [number(frame.image) for frame in frames] == on_screen(times, wanted, tolerance)
    assert [frame.time for frame in frames] == wanted
    assert [frame.index for frame in frames] == list(range(len(wanted)))


def test_ntsc_frame_numbers_spelled_out(tmp_path: Path) -> None:
    write_video(tmp_path / "ntsc.mp4", numbered(200), NTSC)
    # 30 frames last 1.001 s: frame 30 k comes 1 ms after each of k seconds, and is the future to it.
    assert [number(f.image) for f in read(tmp_path / "ntsc.mp4", fps=1)] == [0, 29, 59, 89, 119, 149, 179]
    assert [number(f.image) for f in read(tmp_path / "ntsc.mp4", fps=2)][:4] == [0, 14, 29, 44]


def test_ntsc_over_a_long_time() -> None:
    # 29.97 frames a second: after 1001 s exactly 30000 frames, not 30030.
    times = (TimedImage(i * 1001 / 30000, 1001 / 30000, lambda: grey(0)) for i in range(31000))
    picked = list(sample(times, Sampling(fps=1), 1e-6))
    assert picked[1001].time == pytest.approx(1001.0)
    assert len(picked) == 1035
    assert all(-1001 / 30000 < image.time - k <= 1e-6 for k, image in enumerate(picked))


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
    assert shown == [0.0, 0.5, 1.0, 1.3, 1.9, 2.5, 2.8, 3.4, 4.0, 4.3, 4.9, 5.5, 5.8, 6.4, 7.0, 7.5, 8.0, 8.5]


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
    wanted = [start + k / 5 for k in range(math.ceil((stop - start) * 5 - 1e-6))]
    assert [frame.time for frame in frames] == pytest.approx(wanted)
    expected = [min(199, math.floor(time * 25 + 0.0125)) for time in wanted]
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
                assert source.duration == pytest.approx(40 / NTSC, abs=0.01)
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
        assert len(list(source)) >= 10
        assert source.duration == pytest.approx(2.0, abs=0.1)
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


# memory


def test_memory_is_flat(tmp_path: Path) -> None:
    # Few distinct pictures, so that writing 2000 of them is quick.
    pictures = [grey(level, 360, 640) for level in (0, 120, 250)]
    preset = "ultrafast" if "libx264" in video_encoders() else None
    write_video(tmp_path / "long.mp4", (pictures[i % 3] for i in range(2000)), 30, preset=preset)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    for fps in (30, 3):
        with open_source(tmp_path / "long.mp4", fps=fps) as source:
            for frame in source:
                alive = [image for image in alive if image() is not None] + [weakref.ref(frame.image)]
                most = max(most, len(alive))
                if frame.time == 7:
                    resident = _resident()
        assert frame.index == 2000 * fps // 30 - 1
        assert most <= 2
        # With what Python does not see, such as FFmpeg's buffers; one frame is 0.7 MB.
        assert _resident() - resident < 5e6


def _resident() -> float:
    """Bytes in memory now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0.0
