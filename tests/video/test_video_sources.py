"""Folders, arrays, iterators and URLs; every kind of bad input; writing; the bundled clip."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from hermes.errors import InputError, SettingError
from hermes.samples import CLIP, QUESTIONS
from hermes.video import FrameSource, open_source, video_encoders, write_video
from tests.support.video_files import grey, mux_silence, number, numbered, read

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


def test_a_camera_waits_for_one_picture_at_most() -> None:
    taken: list[float] = []

    def camera() -> Iterator[tuple[float, np.ndarray]]:
        for i in range(1, 100):
            taken.append(i / 5)
            yield i / 5, grey(i)

    source = open_source(camera(), fps=1, end=3.5)
    # Sample: (last picture at or before it, the one that ended the wait).
    assert [(int(frame.image[0, 0, 0]), taken[-1]) for frame in source] == [
        (5, 1.2),
        (10, 2.2),
        (15, 3.2),
    ]


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
        write_video("/dev/null/a.mp4", [grey(0)], 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", [name for name in video_encoders() if name not in ("gif", "libsvtav1")])
def test_every_encoder(tmp_path: Path, codec: str) -> None:
    write_video(tmp_path / "a.mkv", numbered(20), 10, codec=codec)
    assert [number(frame.image) for frame in read(tmp_path / "a.mkv", fps=10)] == list(range(20))


# the bundled clip


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    script = Path(__file__).parents[2] / "tools" / "render_sample.py"
    spec = importlib.util.spec_from_file_location("render_sample", script)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_clip_is_what_the_script_draws(renderer: ModuleType) -> None:
    assert CLIP.stat().st_size < 500_000
    with open_source(CLIP, fps=1) as source:
        drawn = list(renderer.frames())
        assert source.duration == len(drawn) / renderer.FPS == 48
        for frame in source:
            expected = drawn[int(frame.time * renderer.FPS)]
            assert frame.image.shape == expected.shape
            assert np.abs(frame.image.astype(int) - expected).mean() < 6, frame.time


def test_the_questions_fit_the_clip(renderer: ModuleType) -> None:
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    assert questions == renderer.questions()
    for question in questions:
        assert 0 < question["time"] <= 48
        assert question["answer"]
        assert question["answer"] in question.get("choices", [question["answer"]])
