"""Files that would take more memory than they are worth are refused before they take it."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hermes.errors import InputError, SettingError
from hermes.video import VideoConfig, open_source, write_video
from tests.support.video_files import grey, numbered, read

LARGE = r"larger than video\.max_pixels_decoded="
MANY = r"more than video\.max_bytes="


def _header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def zipped(path: Path, content: bytes, name: str = "frames.npy", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    return path


def test_an_array_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bomb = zipped(tmp_path / "bomb.npz", _header((6000, 1000, 334, 3)) + bytes(1_000_000))
    deep = zipped(tmp_path / "deep.npz", _header((2**62, 2**62, 2**62, 3)))
    for path in (bomb, deep):
        with pytest.raises(InputError, match=MANY):
            open_source(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    array = np.stack([grey(i) for i in range(4)])
    np.savez_compressed(tmp_path / "a.npz", array)
    assert len(read(tmp_path / "a.npz", max_bytes=array.nbytes)) == 4
    with pytest.raises(InputError, match=MANY):
        open_source(tmp_path / "a.npz", max_bytes=array.nbytes - 1)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    "content",
    [
        _header((4, 48, 64, 3), "|O") + b"cos\nsystem\n(S'true'\ntR.",
        _header((1000, 48, 64, 3)) + bytes(100),
        _header((-1, 48, 64, 3)) + bytes(100),
        b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 200,
        b"\x93NUMPY\x09\x00" + bytes(20),
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{'descr'",
        b"\x80\x04cos\nsystem\n.",
        bytes(100),
        b"",
    ],
)
def test_arrays_that_lie_or_hold_objects(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        zipped(path, content)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"a{suffix}"):
        open_source(path)


def test_archives_that_are_damaged(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "a.npz", _header((4, 48, 64, 3)) + bytes(4 * 48 * 64 * 3)).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "a.npz").write_bytes(bytes(data[: rng.integers(10, len(data) + 1)]))
        with suppress(InputError):
            read(tmp_path / "a.npz")


def png(path: Path, width: int, height: int) -> Path:
    """A picture that says its size, and holds nothing."""
    file = b"\x89PNG\r\n\x1a\n"
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ):
        crc = zlib.crc32(kind + content).to_bytes(4)
        file += len(content).to_bytes(4) + kind + content + crc
    path.write_bytes(file)
    return path


@pytest.mark.parametrize("size", [(13_000, 13_000), (60_000, 2000), (2**31 - 1, 2**31 - 1)])
def test_large_pictures_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = png(tmp_path / "a.png", *size)
    for spec in (path, tmp_path, io.BytesIO(path.read_bytes())):
        with pytest.raises(InputError, match=r"a\.png|BytesIO"):
            read(spec)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tiff", ".mp4", ".mkv", ".avi", ".ts"]
)
def test_the_limit_is_a_setting(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix in (".mp4", ".mkv", ".avi", ".ts"):
        write_video(path, numbered(5), 5)
    else:
        Image.fromarray(grey(9)).save(path)
    assert read(path, max_pixels_decoded=64 * 48)
    with pytest.raises(InputError, match="64x48 are " + LARGE):
        read(path, max_pixels_decoded=64 * 48 - 1)
    with pytest.raises(SettingError, match=r"video\.max_pixels_decoded: got 0"):
        open_source(path, max_pixels_decoded=0)


def test_pictures_of_a_folder_have_the_limit_too(tmp_path: Path) -> None:
    Image.fromarray(grey(1)).save(tmp_path / "1.png")
    png(tmp_path / "2.png", 13_000, 13_000)
    with pytest.raises(InputError, match=r"2\.png: pictures of 13000x13000 are " + LARGE):
        read(tmp_path)


def test_pictures_that_become_too_large_half_way(tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", numbered(20), 10)
    write_video(tmp_path / "b.ts", numbered(20, 96, 128), 10)
    data = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    with open_source(data, fps=10, max_pixels_decoded=64 * 48) as source:
        assert len(list(source)) <= 25
        assert source.warnings


def test_a_picture_is_never_a_program(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.tiff"):
        (tmp_path / name).write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n%%EOF\n")
        with pytest.raises(InputError):
            read(tmp_path / name)
    with pytest.raises(InputError, match="not an image"):
        read(tmp_path)


def test_settings_reach_the_source(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(20), 10)
    for config in (VideoConfig(max_pixels_decoded=100), VideoConfig(max_side=16, max_pixels_decoded=100)):
        with pytest.raises(InputError, match=LARGE):
            open_source(tmp_path / "a.mp4", **config.reading())
