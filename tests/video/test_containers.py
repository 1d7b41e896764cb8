"""What a container may hold: several streams, cover art, codecs without a decoder, EXIF, animations, lies."""

from __future__ import annotations

import io
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from hermes.errors import InputError
from hermes.video import open_source, video_encoders, write_video
from tests.support.video_files import grey, number, numbered, read


def mux_several(path: Path, levels: dict[int, Disposition]) -> Path:
    """A file with a video stream of each level of grey."""
    with av.open(str(path), "w") as container:
        streams = []
        for disposition in levels.values():
            stream = cast(VideoStream, container.add_stream("mpeg4", rate=10))
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.disposition = disposition
            streams.append(stream)
        for _ in range(10):
            for level, stream in zip(levels, streams, strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(level))))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


NONE = Disposition(0)


@pytest.mark.parametrize(
    ("levels", "shown"),
    [
        ({0: NONE, 100: Disposition.default, 200: NONE}, 100),
        ({0: NONE, 100: NONE, 200: Disposition.default}, 200),
        ({0: Disposition.default, 100: Disposition.default}, 0),
        ({0: NONE, 100: NONE}, 0),
    ],
)
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_default_stream_is_shown(
    levels: dict[int, Disposition], shown: int, suffix: str, tmp_path: Path
) -> None:
    path = mux_several(tmp_path / f"a{suffix}", levels)
    for start in (0, 0.5):
        assert abs(int(read(path, fps=5, start=start)[0].image.mean()) - shown) < 6


def test_cover_art_is_never_shown(tmp_path: Path) -> None:
    cover = io.BytesIO()
    Image.fromarray(grey(250)).save(cover, "JPEG")
    for first in (True, False):
        path = tmp_path / f"a{first}.mp4"
        with av.open(str(path), "w") as container:
            names = ["mjpeg", "mpeg4"] if first else ["mpeg4", "mjpeg"]
            streams = {name: cast(VideoStream, container.add_stream(name, rate=10)) for name in names}
            for name, stream in streams.items():
                stream.width, stream.height = 64, 48
                stream.pix_fmt = "yuvj420p" if name == "mjpeg" else "yuv420p"
            streams["mjpeg"].disposition = Disposition.attached_pic
            packet = av.Packet(cover.getvalue())
            packet.stream, packet.pts, packet.dts = streams["mjpeg"], 0, 0
            packet.time_base, packet.is_keyframe = Fraction(1, 10), True
            container.start_encoding()
            container.mux(packet)
            for _ in range(10):
                container.mux(streams["mpeg4"].encode(av.VideoFrame.from_ndarray(grey(50))))
            container.mux(streams["mpeg4"].encode(None))
        assert abs(int(read(path, fps=2)[0].image.mean()) - 50) < 6


@pytest.mark.parametrize(
    ("suffix", "old"), [(".mp4", b"avc1"), (".mov", b"avc1"), (".mkv", b"V_MPEG4/ISO/AVC")]
)
@pytest.mark.skipif("libx264" not in video_encoders(), reason="needs libx264")
def test_a_codec_without_a_decoder_is_named(suffix: str, old: bytes, tmp_path: Path) -> None:
    write_video(tmp_path / f"a{suffix}", numbered(10), 10)
    data = (tmp_path / f"a{suffix}").read_bytes()
    new = old.replace(b"avc1", b"xyzw").replace(b"V_MPEG4", b"V_XYZW4")
    assert old in data
    (tmp_path / f"a{suffix}").write_bytes(data.replace(old, new))
    with pytest.raises(InputError, match=r"no decoder for its video \(.+\)"):
        open_source(tmp_path / f"a{suffix}")
    assert av.logging.get_level() is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".mjpeg", ".jpg", ".png"])
def test_exif_turns_pictures(orientation: int, suffix: str, tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG" if suffix == ".png" else "JPEG", exif=exif)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(file.getvalue() * (5 if suffix == ".mjpeg" else 1))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    frames = read(path, fps=25)
    assert len(frames) == (5 if suffix == ".mjpeg" else 1)
    assert frames[-1].image.shape == expected.shape
    assert np.abs(frames[-1].image.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".apng", ".png", ".avif"])
@pytest.mark.parametrize("start", [0.0, 0.6])
def test_animations_are_videos_with_their_times(suffix: str, start: float, tmp_path: Path) -> None:
    pictures = [Image.fromarray(image).convert("RGB") for image in numbered(5)]
    form = {".apng": "PNG"}.get(suffix)
    path = tmp_path / f"a{suffix}"
    more = {"quality": 95} if suffix in (".webp", ".avif") else {}
    durations = [100, 200, 300, 400, 500]
    pictures[0].save(path, form, save_all=True, append_images=pictures[1:], duration=durations, **more)
    for spec in (path, io.BytesIO(path.read_bytes())):
        with open_source(spec, fps=10, start=start) as source:
            shown = [number(frame.image) for frame in source]
            assert shown == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4][round(start * 10) :]
            assert source.duration == pytest.approx(1.5)
            assert not source.warnings


def test_files_in_memory_stay_open_and_are_read_from_their_beginning(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(40), 10)
    file = io.BytesIO()
    file.write((tmp_path / "a.mp4").read_bytes())
    for start in (0, 2):
        with open_source(file, fps=1, start=start) as source:
            assert [number(frame.image) for frame in source] == [0, 10, 20, 30][start:]
        assert not file.closed
    with (tmp_path / "a.mp4").open("rb") as opened:
        assert len(read(opened, fps=1)) == 4
    with (tmp_path / "a.mp4").open(encoding="latin-1") as text, pytest.raises(InputError, match="not text"):
        open_source(text)
    assert len(read(file.getvalue(), fps=1)) == 4
    for junk in (b"", b"junk"):
        with pytest.raises(InputError):
            read(junk)


# headers that lie


def patched(path: Path, at: bytes, offset: int, new: bytes) -> Path:
    data = bytearray(path.read_bytes())
    place = data.index(at) + offset
    data[place : place + len(new)] = new
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("units", [0, 1, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize(("box", "offset"), [(b"mvhd", 16), (b"mdhd", 16), (b"mdhd", 20), (b"mvhd", 20)])
def test_time_bases_and_durations_that_lie(units: int, box: bytes, offset: int, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(20), 10)
    patched(tmp_path / "a.mp4", box, offset, units.to_bytes(4))
    with suppress(InputError), open_source(tmp_path / "a.mp4", fps=1) as source:
        assert source.duration is None or source.duration >= 0
        assert len(list(source)) <= 4 * 3600


@pytest.mark.parametrize("matrix", [bytes(36), b"\xff" * 36, b"\x7f" * 36, bytes(range(36))])
def test_rotations_that_make_no_sense(matrix: bytes, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(10), 10)
    patched(tmp_path / "a.mp4", b"tkhd", 44, matrix)
    assert sorted(read(tmp_path / "a.mp4", fps=1)[0].image.shape) == [3, 48, 64]


@pytest.mark.parametrize(
    "rate", ["F0:0", "F0:1", "F1:0", "F-25:1", "F2147483647:1", "F1:2147483647", "Fnan:1"]
)
def test_rates_that_make_no_sense(rate: str, tmp_path: Path) -> None:
    (tmp_path / "a.y4m").write_bytes(f"YUV4MPEG2 W64 H48 {rate} Ip A1:1 C420jpeg\n".encode())
    with (tmp_path / "a.y4m").open("ab") as file:
        for _ in range(5):
            file.write(b"FRAME\n" + bytes(64 * 48 * 3 // 2))
    with suppress(InputError), open_source(tmp_path / "a.y4m", fps=0.1) as source:
        assert 1 <= len(list(source)) <= 5 * 360 + 1
