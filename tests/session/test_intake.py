"""What is fed is taken on the stream's own clock, at the session's rate, or refused before it waits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hermes.errors import InputError, SettingError
from hermes.policies.fifo import Fifo
from hermes.samples import CLIP
from hermes.session.lockstep import BatchedSession
from hermes.session.memory_map import held_frames
from hermes.session.session import StreamSession
from hermes.video import Frame, Link, open_source
from tests.support.families import tiny

pytestmark = pytest.mark.model
A = np.random.default_rng(0).integers(0, 256, (8, 42, 42, 3), np.uint8)
BGR = np.ascontiguousarray(A[..., ::-1])


def session(fps: float = 1.0, chunk_frames: int = 4, budget: int = 400) -> StreamSession:
    return StreamSession(tiny("llava_onevision"), Fifo(budget=budget), fps=fps, chunk_frames=chunk_frames)


def frames(count: int, first: int = 0, step: float = 1.0) -> list[Frame]:
    return [Frame(A[i % 8], i * step, i) for i in range(first, first + count)]


def seen(stream: StreamSession) -> list[tuple[float, int]]:
    """Time and index of every frame that is held, in order."""
    stream.flush()
    origin = stream.memory[0].video
    return sorted(set(zip(origin.time.flatten().tolist(), origin.frame.flatten().tolist(), strict=True)))


TAKEN: dict[str, tuple[Callable[[], Any], int]] = {
    "array": (lambda: A, 8),
    "one picture": (lambda: A[0], 1),
    "tensor": (lambda: torch.from_numpy(A), 8),
    "one tensor": (lambda: torch.from_numpy(A[0]), 1),
    "pil": (lambda: Image.fromarray(A[0]), 1),
    "list of arrays": (lambda: list(A), 8),
    "tuple of pil": (lambda: tuple(map(Image.fromarray, A)), 8),
    "generator": (lambda: (picture for picture in A), 8),
    "timed": (lambda: [(float(i), picture) for i, picture in enumerate(A)], 8),
    "source": (lambda: open_source(A, fps=1), 8),
    "frame": (lambda: frames(1)[0], 1),
    "frames": (lambda: frames(8), 8),
    "generator of frames": (lambda: iter(frames(8)), 8),
}


@pytest.mark.parametrize("name", TAKEN)
def test_whatever_holds_frames_is_taken(name: str) -> None:
    make, count = TAKEN[name]
    stream = session()
    stream.feed(make())
    assert seen(stream) == [(float(i), i) for i in range(count)]
    assert (stream.frames_seen, stream.now) == (count, float(count))


def test_the_bytes_of_a_file_are_the_file() -> None:
    streams = [session(), session()]
    for stream, given in zip(streams, (CLIP, CLIP.read_bytes()), strict=True):
        stream.feed(given)
    assert seen(streams[0]) == seen(streams[1])
    assert streams[1].now == 48.0


def test_paths_are_sampled_at_the_rate_of_the_session(tmp_path: Path) -> None:
    for index, picture in enumerate(A):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    np.save(tmp_path / "a.npy", A)
    for spec in (tmp_path, str(tmp_path), tmp_path / "a.npy"):
        stream = session(fps=0.5)
        stream.feed(spec)
        assert seen(stream) == [(2.0 * i, i) for i in range(8)]
    for fps in (0.25, 0.5):
        stream = session(fps, budget=4000)
        stream.feed(CLIP)
        assert seen(stream) == [(i / fps, i) for i in range(int(48 * fps))]


@pytest.mark.parametrize(
    "make", [lambda: BGR, lambda: list(BGR), lambda: iter(BGR), lambda: torch.from_numpy(BGR), lambda: BGR[0]]
)
def test_channels_in_the_order_of_opencv(make: Callable[[], Any]) -> None:
    stream = session(chunk_frames=16)
    stream.feed(make(), bgr=True)
    assert all(np.array_equal(frame.image, A[i]) for i, frame in enumerate(stream.waiting))
    stream.flush()
    for spec in (CLIP, Image.fromarray(A[0]), open_source(A)):
        with pytest.raises(SettingError, match="bgr"):
            stream.feed(spec, bgr=True)


def wide(time: float = 50.0) -> Frame:
    return Frame(np.zeros((20, 60, 3), np.uint8), time, 50)


def unchecked(image: Any, time: Any = 50.0) -> Frame:
    """A frame that is none, past every check of its own class."""
    made = Frame(A[0], 50.0, 50)
    for name, value in (("image", image), ("time", time)):
        object.__setattr__(made, name, value)
    return made


REFUSED: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "number": lambda: 3,
    "bytes": lambda: b"abc",
    "mapping": lambda: {"a": 1},
    "nowhere": lambda: "nowhere.mp4",
    "channels first": lambda: A.transpose(0, 3, 1, 2),
    "floats": lambda: A.astype(np.float32),
    "float tensor": lambda: torch.from_numpy(A).float(),
    "grey": lambda: A[..., 0],
    "four channels": lambda: np.concatenate([A, A[..., :1]], -1),
    "no frame": lambda: A[:0],
    "texts": lambda: ["a", "b"],
    "mixed": lambda: [frames(1, 50)[0], A[0]],
    "another size": lambda: [wide()],
    "good, then another size": lambda: [*frames(2, 50), wide(52.0)],
    "picture of another size": lambda: wide().image,
    "floats in a frame": lambda: [unchecked(A[0].astype(np.float32))],
    "grey frame": lambda: [unchecked(A[0, ..., 0])],
    "no image": lambda: [unchecked(None)],
    "nan": lambda: [unchecked(A[0], float("nan"))],
    "infinite": lambda: [unchecked(A[0], float("inf"))],
    "negative": lambda: [unchecked(A[0], -1.0)],
    "text for a time": lambda: [unchecked(A[0], "1.0")],
    "no time": lambda: [unchecked(A[0], None)],
    "repeated": lambda: [Frame(A[0], 50.0, 50), Frame(A[0], 50.0, 51)],
    "back": lambda: [*frames(2, 50), frames(1, 49)[0]],
    "back at once": lambda: frames(3, 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_leaves_nothing_behind(name: str) -> None:
    stream, whole = session(), session()
    for one in (stream, whole):
        one.feed(frames(6))
    with pytest.raises(InputError):
        stream.feed(REFUSED[name]())
    assert [frame.index for frame in stream.waiting] == [4, 5]
    for one in (stream, whole):
        one.feed(frames(6, 6))
    assert seen(stream) == seen(whole) == [(float(i), i) for i in range(12)]
    assert all(torch.equal(*pair) for pair in zip(stream.memory.state(), whole.memory.state(), strict=True))


def test_of_a_generator_the_frames_before_a_wrong_one_stay() -> None:
    stream = session()
    with pytest.raises(InputError, match="one size"):
        stream.feed(iter([*frames(6), wide()]))
    stream.feed(frames(2, 6))
    assert seen(stream) == [(float(i), i) for i in range(8)]


def test_a_picture_that_no_model_reads_is_refused_at_the_door() -> None:
    stream = StreamSession(tiny("qwen2_5_vl"), Fifo(budget=400), fps=1, chunk_frames=4)
    with pytest.raises(InputError, match="200"):
        stream.feed(np.zeros((2, 900, 3), np.uint8))
    stream.feed(A)
    assert stream.frames_seen == 8


# -- the rate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [0.25, 0.5, 0.99, 1.5])
@pytest.mark.parametrize("form", [lambda s: s, list, lambda s: (frame for frame in s)])
def test_a_source_of_another_rate_is_refused_by_both_numbers(fps: float, form: Any) -> None:
    stream = session(fps=1)
    with pytest.raises(SettingError, match=rf"fps: got {fps}; allowed: 1, "):
        stream.feed(form(open_source(A, fps=fps)))
    assert (stream.waiting, stream.now) == ([], 0.0)
    stream.feed(open_source(A, fps=1))
    assert stream.frames_seen == 8


@pytest.mark.parametrize("form", [lambda s: s, list, lambda s: (frame for frame in s)])
def test_a_multiple_of_the_rate_is_thinned_exactly(form: Any, caplog: pytest.LogCaptureFixture) -> None:
    many, plain = session(fps=0.5), session(fps=0.5)
    many.feed(form(open_source(A, fps=1.5)))
    assert "one in 3" in caplog.text
    plain.feed(open_source(A, fps=0.5, source_fps=1.5))
    assert seen(many) == seen(plain) == [(0.0, 0), (2.0, 1), (4.0, 2)]
    assert all(torch.equal(*pair) for pair in zip(many.memory.state(), plain.memory.state(), strict=True))
    assert list(many.watch(open_source(A, fps=1), [10.0])) == [10.0]
    assert seen(many) == [(2.0 * i, i) for i in range(7)]


def test_frames_that_do_not_know_their_rate_are_compared_by_their_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = session(fps=1)
    stream.feed(frames(4))
    # Frames that were lost say so by their numbers.
    stream.feed([frame for frame in frames(8, 4) if frame.index % 3])
    assert not caplog.records
    stream.feed(frames(8, 20, step=4.0))
    stream.feed(frames(8, 30, step=4.0))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "every 1 s" in caplog.text


# -- time never goes back ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [lambda: A, lambda: list(A), lambda: open_source(A, fps=1), lambda: frames(8), lambda: iter(frames(8))],
)
def test_a_second_clip_goes_on_where_the_first_ended(make: Callable[[], Any]) -> None:
    stream = session(budget=4000)
    for clip in range(3):
        stream.feed(make())
        assert stream.now == 8.0 * (clip + 1)
    assert seen(stream) == [(float(i), i) for i in range(24)]
    assert stream.frames_seen == 24
    assert {(cell.frame, cell.time_s) for cell in held_frames(stream.memory)} == {(i, i) for i in range(24)}
    positions = stream.memory[0].positions
    assert positions is not None
    assert bool((positions[0].diff(dim=-1) > 0).all())


def test_it_is_said_once_where_a_clip_was_put(caplog: pytest.LogCaptureFixture) -> None:
    stream = session()
    for _ in range(3):
        stream.feed(open_source(A, fps=1))
    assert [record.getMessage() for record in caplog.records] == list(stream.notes)
    assert "begins at 0 s, and 8 s of the stream have passed" in caplog.text


def test_a_clip_is_put_where_one_says() -> None:
    stream = session(budget=4000)
    stream.feed(A[:2], at=3)
    stream.feed(open_source(A[:2], fps=1), at=10.0)
    stream.feed(frames(2, 5), at=20)
    stream.feed(open_source(A, fps=1, start=5))
    assert [time for time, _ in seen(stream)] == [3, 4, 10, 11, 20, 21, 22, 23, 24]
    for wrong in (5, 24, float("nan"), float("inf"), -1):
        with pytest.raises(InputError):
            stream.feed(A, at=wrong)
    assert stream.now == 25.0


def test_times_that_come_later_stay_as_they_are() -> None:
    stream = session(budget=4000)
    stream.feed(open_source(A, fps=1, end=4))
    stream.feed(open_source(A, fps=1, start=6))
    assert [time for time, _ in seen(stream)] == [0, 1, 2, 3, 6, 7]
    assert not list(stream.notes)


def test_frames_that_come_twice_over_a_link_are_no_step_back() -> None:
    stream = session(budget=4000)
    stream.feed(Link(duplicate=1.0).carry(frames(4)))
    assert (stream.frames_seen, stream.now) == (8, 4.0)
    assert seen(stream) == [(float(i), i) for i in range(4)]


def test_numbers_that_repeat_are_counted_anew() -> None:
    stream = session()
    stream.feed([replace(frame, index=0) for frame in frames(6)])
    assert seen(stream) == [(float(i), i) for i in range(6)]


def test_a_stream_taken_up_again_goes_on_behind_what_it_saw(tmp_path: Path) -> None:
    first, second = session(), session()
    first.feed(A)
    first.save(tmp_path)
    second.resume(tmp_path)
    with pytest.raises(InputError, match="not after"):
        second.feed(frames(2, 4))
    second.feed(A)
    assert seen(second) == [(float(i), i) for i in range(16)]


# -- in lockstep -------------------------------------------------------------------------------------------


def together(family: str) -> BatchedSession:
    return BatchedSession(tiny(family), Fifo(budget=400), 2, fps=1, chunk_frames=4)


@pytest.mark.parametrize("count", [1, 4, 6])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_lockstep_goes_on_after_a_frame_that_one_stream_cannot_take(family: str, count: int) -> None:
    both, whole = together(family), together(family)
    for one in (both, whole):
        one.feed([A[:6], A[:6]])
    bad = [*frames(count - 1, 6), wide()]
    for given in ([frames(count, 6), bad], [bad, frames(count, 6)], [A[:2], None], [A[:2]], [A[:2], A[:3]]):
        with pytest.raises(InputError):
            both.feed(given)
        assert [len(stream.waiting) for stream in both.streams] == [2, 2]
    for one in (both, whole):
        one.feed([A[:6], A[:6]])
    assert [stream.now for stream in both.streams] == [12.0, 12.0]
    assert all(torch.equal(*pair) for pair in zip(both.memory.state(), whole.memory.state(), strict=True))


def test_streams_of_two_sizes_are_refused_where_their_tokens_differ() -> None:
    both = together("qwen2_5_vl")
    small = np.zeros((4, 84, 56, 3), np.uint8)
    with pytest.raises(InputError, match="one size"):
        both.feed([small, small.transpose(0, 2, 1, 3)])
    both.feed([small, small])
    assert [stream.frames_seen for stream in both.streams] == [4, 4]
