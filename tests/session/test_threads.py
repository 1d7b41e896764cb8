"""Threads on one session: calls wait for each other, and what comes out is some order of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from hermes.decoding.generation import GenerationConfig
from hermes.errors import HermesError
from hermes.policies.fifo import Fifo
from hermes.session.lockstep import BatchedSession
from hermes.session.session import Callback, StreamSession
from hermes.video import Frame
from tests.support.families import tiny

pytestmark = pytest.mark.model
A = np.random.default_rng(0).integers(0, 256, (24, 42, 42, 3), np.uint8)
SHORT = GenerationConfig(max_new_tokens=2)
SAMPLED = GenerationConfig(max_new_tokens=4, do_sample=True, temperature=3.0)


def session(callbacks: Any = (), generation: GenerationConfig = SHORT, seed: int = 0) -> StreamSession:
    return StreamSession(
        tiny("llava_onevision"),
        Fifo(budget=50),
        fps=1,
        chunk_frames=4,
        generation=generation,
        callbacks=callbacks,
        seed=seed,
    )


def frames(first: int, count: int) -> list[Frame]:
    return [Frame(A[i], float(i), i) for i in range(first, first + count)]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def test_questions_while_frames_come_are_answered_as_in_some_order() -> None:
    expected = {}
    for seen in range(1, 5):
        plain = session()
        plain.feed(A[:seen])
        expected[seen] = plain.ask("What now?").ids.tolist()

    for _ in range(2):
        stream = session()
        stream.feed(A[:1])
        answers = []

        def asks(stream: StreamSession = stream, answers: list[Any] = answers) -> None:
            for _ in range(4):
                answers.append(stream.ask("What now?"))
                stream.stats()
                repr(stream)

        at_once(lambda stream=stream: stream.feed(frames(1, 15)), asks)
        stream.flush()
        assert (stream.frames_seen, stream.now) == (16, 16.0)
        # A question cuts a chunk, so only what was evicted may differ from a stream that was asked once.
        assert [answer.frames_seen for answer in answers] == sorted(answer.frames_seen for answer in answers)
        assert {answer.frames_seen for answer in answers} <= set(range(1, 17))
        first = answers[0]
        if first.frames_seen <= 4:
            assert first.ids.tolist() == expected[first.frames_seen]


def test_threads_that_feed_take_turns() -> None:
    stream = session()
    at_once(*(lambda: stream.feed(iter(A[:8])) for _ in range(3)))
    stream.flush()
    plain = session()
    for _ in range(3):
        plain.feed(A[:8])
    assert (stream.frames_seen, stream.now) == (24, 24.0)
    assert all(torch.equal(*pair) for pair in zip(stream.memory.state(), plain.memory.state(), strict=True))


def test_a_feeder_that_waits_for_its_camera_keeps_nobody_waiting() -> None:
    stream, ask_now, asked = session(), threading.Event(), threading.Event()

    def camera() -> Any:
        yield from frames(0, 5)
        ask_now.set()
        assert asked.wait(60)
        yield from frames(5, 3)

    def asks() -> Any:
        ask_now.wait(60)
        answer = stream.ask("What now?")
        asked.set()
        return answer

    _, answer = at_once(lambda: stream.feed(camera()), asks)
    assert answer.frames_seen == 5
    assert stream.now == 8.0


def test_saving_resetting_and_resuming_wait_as_well(tmp_path: Any) -> None:
    stream = session()
    stream.feed(A[:4])
    at_once(
        lambda: stream.feed(iter(A[4:12])),
        lambda: stream.save(tmp_path / "a"),
        lambda: [stream.memory.lengths for _ in range(20)],
    )
    later = session()
    later.resume(tmp_path / "a")
    assert later.frames_seen in range(4, 13)
    at_once(lambda: later.feed(A[:6]), later.reset, lambda: later.resume(tmp_path / "a"))
    # Whichever of them came last, the stream goes on from there.
    later.feed(A[12:16])
    later.flush()
    assert later.ask("What now?").frames_seen == later.frames_seen >= 4


def test_lockstep_in_threads() -> None:
    both = BatchedSession(
        tiny("llava_onevision"), Fifo(budget=50), 2, fps=1, chunk_frames=4, generation=SHORT
    )
    both.feed([A[:4], A[4:8]])
    _, answers, stats = at_once(
        lambda: both.feed([A[:8], A[4:12]]), lambda: both.ask("What now?"), lambda: both.stats()
    )
    # Between two chunks, and of every stream alike; each answer is that of a session alone at that time.
    assert [answer.frames_seen for answer in answers] in ([4, 4], [8, 8], [12, 12])
    assert [one.frames for one in stats] in ([4, 4], [8, 8], [12, 12])
    seen = answers[0].frames_seen
    for answer, first, then in zip(answers, (A[:4], A[4:8]), (A[:8], A[4:12]), strict=True):
        alone = session()
        for part in (first, then[: seen - 4]):
            if len(part):
                alone.feed(part)
        assert answer.ids.tolist() == alone.ask("What now?").ids.tolist()


def test_a_callback_may_ask_and_may_not_feed() -> None:
    class Asking(Callback):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def on_encode_start(self, session: StreamSession, frames: Any) -> None:
            if session.frames_seen:
                self.seen.append(session.ask("Before?").frames_seen)

        def on_compress_end(self, session: StreamSession, changed: bool) -> None:
            self.seen.append(session.ask("After?").frames_seen)
            for forbidden in (lambda: session.feed(A[:1]), session.reset, lambda: session.resume("nowhere")):
                with pytest.raises(HermesError, match="callback"):
                    forbidden()

    asking = Asking()
    stream = session([asking])
    stream.feed(A[:8])
    assert asking.seen == [4, 4, 8]
    plain = session()
    plain.feed(A[:8])
    assert torch.equal(stream.memory[0].origin.id, plain.memory[0].origin.id)


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"num_beams": 2}])
def test_sampled_answers_are_the_sessions_own(options: dict[str, Any]) -> None:
    """In any order, in threads, and whatever happens to the global random numbers."""
    streams = [session(generation=SAMPLED, seed=seed) for seed in (0, 1)]
    for stream in streams:
        stream.feed(A[:4])
    alone = [stream.ask("What now?", **options).ids.tolist() for stream in streams]
    assert len({tuple(ids) for ids in alone}) > 1
    before = torch.get_rng_state()
    again = [stream.ask("What now?", **options).ids.tolist() for stream in reversed(streams)]
    assert again == alone[::-1]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    calls = [lambda stream=stream: stream.ask("What now?", **options).ids.tolist() for stream in streams]
    assert at_once(*calls, lambda: [torch.rand(3) for _ in range(100)] and None)[:2] == alone
