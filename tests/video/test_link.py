"""Frames on their way: lost, doubled, late, too many to send; and what that does to an evaluation."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from hermes.backbone import load_backbone
from hermes.errors import SettingError
from hermes.evaluation import Journal, eval_config, evaluate
from hermes.policies.full import Full
from hermes.session.session import StreamSession
from hermes.video import Frame, Link
from tests.support.command_line import hermes

GREY = np.zeros((16, 16, 3), np.uint8)


def stream(count: int, fps: float = 1.0) -> list[Frame]:
    return [Frame(GREY, i / fps, i) for i in range(count)]


def test_by_default_frames_come_as_they_are():
    sent = stream(5)
    assert [(f.time, f.arrived, f.index) for f in Link().carry(sent)] == [
        (f.time, f.time, f.index) for f in sent
    ]


def test_losses_and_doubles_are_as_many_as_said_and_repeat_with_the_seed():
    link = Link(loss=0.3, duplicate=0.2)
    times = [frame.time for frame in link.carry(stream(4000), seed=1)]
    seen = set(times)
    assert abs(len(seen) / 4000 - 0.7) < 0.03
    assert abs((len(times) - len(seen)) / len(seen) - 0.2) < 0.03
    assert times == [frame.time for frame in link.carry(stream(4000), seed=1)]
    assert times != [frame.time for frame in link.carry(stream(4000), seed=2)]
    # Which frames are lost does not hang on what else is set.
    assert [f.time for f in Link(loss=0.3, duplicate=0.2, jitter=5).carry(stream(4000), seed=1)] == times


def test_a_narrow_link_queues_what_it_cannot_send():
    # A frame takes two seconds to send, and one comes every second.
    link = Link(kilobytes=1, bandwidth=4)
    assert [f.arrival for f in link.carry(stream(4))] == [2, 4, 6, 8]
    # With a queue of at most 1.5 s the sender drops what would wait longer.
    assert [f.time for f in Link(kilobytes=1, bandwidth=4, queue=1.5).carry(stream(8))] == [0, 1, 3, 5, 7]


def test_sizes_are_those_of_jpeg_files():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=40)
    (frame,) = Link(bandwidth=100, quality=40).carry([Frame(noise, 0.0, 0)])
    assert frame.arrival == pytest.approx(8 * len(file.getvalue()) / 1000 / 100)
    assert frame.image is noise


@pytest.mark.parametrize("late", ["wait", "drop"])
def test_jitter_against_a_plain_simulation(late):
    sent = stream(300, fps=2.0)
    link = Link(jitter=1.5, latency=0.2, late=late)
    rng = np.random.default_rng(7)
    there = []
    for frame in sent:
        rng.random(2)
        there.append(frame.time + 0.2 + 1.5 * rng.exponential(size=2)[0])
    if late == "wait":
        wanted = [(i, max(there[: i + 1])) for i in range(len(sent))]
    else:
        # A frame is lost if any newer one is there before it.
        wanted = [(i, there[i]) for i in range(len(sent)) if there[i] < min([*there[i + 1 :], np.inf])]
    found = [(frame.index, frame.arrival) for frame in link.carry(sent, seed=7)]
    assert [index for index, _ in found] == [index for index, _ in wanted]
    assert [arrival for _, arrival in found] == pytest.approx([arrival for _, arrival in wanted])
    assert late == "wait" or len(found) < 300
    assert [arrival for _, arrival in found] == sorted(arrival for _, arrival in found)


def test_wrong_settings_are_named():
    with pytest.raises(SettingError, match=r"link\.late: got 'wiat'; allowed: one of wait, drop"):
        eval_config(["link.late=wiat"])
    with pytest.raises(SettingError, match=r"link\.loss"):
        eval_config(["link.loss=2"])
    result = hermes("eval", "link.bandwith=3")
    assert result.code == 2
    assert "bandwidth" in result.err


SHORT = (
    "data.streams=3",
    "data.world.length=16",
    "data.questions=8",
    "generation.max_new_tokens=2",
    "threads=1",
)


@pytest.fixture(scope="module")
def embedded():
    return load_backbone(eval_config().backbone)


@pytest.mark.model
def test_questions_see_what_has_arrived(embedded, tmp_path):
    run = eval_config([*SHORT, "policy=full", "link.latency=2.5", "seed=3"])
    evaluate(run, tmp_path / "late", backbone=embedded)
    for row in Journal(tmp_path / "late").rows.values():
        # Frames of seconds 0, 1, ... arrive 2.5 s later.
        assert row.frames_seen == max(int(np.ceil(row.time_s - 2.5)), 0)
        assert row.stale_s == row.time_s - (row.frames_seen - 1)
    lost = evaluate(eval_config([*SHORT, "policy=full", "link.loss=1"]), tmp_path / "lost", backbone=embedded)
    assert lost.overall.n == len(Journal(tmp_path / "lost").rows)
    assert lost.overall.right == 0
    assert lost.costs["frames"].mean == 0
    assert "ttft" not in lost.costs


@pytest.mark.model
def test_a_slow_link_leaves_out_no_question_that_is_asked_again(embedded, tmp_path):
    asked = {}
    for latency in (0, 3.5):
        folder = tmp_path / str(latency)
        run = eval_config([*SHORT, "policy=full", "data.late=0.2", "delays=[4]", f"link.latency={latency}"])
        evaluate(run, folder, backbone=embedded)
        asked[latency] = set(Journal(folder).rows)
    assert any(delay for _, _, delay in asked[0])
    assert asked[3.5] == asked[0]


@pytest.mark.model
def test_questions_without_a_frame_are_no_rounds_after_a_stop(embedded, tmp_path):
    # Guidance prompts name the last round, so that answers depend on the rounds before.
    more = ("data.world.length=32", "data.late=0", "policy=hermes", "policy.budget=24", "link.latency=10")
    run = eval_config([*SHORT, *more, "stream.chunk_frames=4", "data.choices=1"])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    evaluate(run, whole, backbone=embedded)
    lines = (whole / "rows.jsonl").read_text().splitlines(keepends=True)
    early = [line for line in lines if json.loads(line)["frames_seen"] == 0]
    assert 0 < len(early) < len(lines)
    broken.mkdir()
    (broken / "manifest.json").write_text((whole / "manifest.json").read_text())
    (broken / "rows.jsonl").write_text("".join(early))
    evaluate(run, broken, backbone=embedded)
    kept = ("question", "answer", "probabilities")
    told = [
        [[json.loads(line)[key] for key in kept] for line in (folder / "rows.jsonl").read_text().splitlines()]
        for folder in (whole, broken)
    ]
    assert told[0] == told[1]


@pytest.mark.model
def test_the_lag_is_the_work_that_waits(embedded, tmp_path, monkeypatch):
    """Every piece of work takes 3 s: a clock that a test can predict."""
    import hermes.evaluation.running.live_clock as clock

    ticks = iter(range(0, 10**6, 3))
    monkeypatch.setattr(clock, "perf_counter", lambda: next(ticks))
    more = (
        "policy=full",
        "stream.chunk_frames=4",
        "data.streams=1",
        "data.kinds=[now_place]",
        "data.questions=3",
    )
    run = eval_config([*SHORT, *more, "data.late=0"])
    evaluate(run, tmp_path, backbone=embedded)
    free, fed = 0.0, 0
    for row in Journal(tmp_path).rows.values():
        seen = int(row.time_s)
        while fed < seen:
            end = min(fed + 4, seen)
            # Begun once the chunk's last frame is there, or at the question that cuts it short.
            ready = end - 1 if end - fed == 4 else row.time_s
            free = max(free, ready) + 3
            fed = end
        assert row.lag_s == max(free - row.time_s, 0.0)
        free = max(free, row.time_s) + 3


@pytest.mark.model
def test_at_the_end_of_the_stream_a_late_link_is_no_lag(embedded, monkeypatch):
    """Asked at no time of its own: once everything is there, however long it took to come."""
    import hermes.evaluation.running.live_clock as clock

    ticks = iter(range(0, 10**6, 3))
    monkeypatch.setattr(clock, "perf_counter", lambda: next(ticks))
    session = StreamSession(embedded, Full(), fps=1.0, chunk_frames=4)
    with clock.LiveClock().watching(session) as live:
        session.feed(Link(latency=10).carry(stream(8)))
        session.ask("Where are we now?")
    # The last frame, of second 7, came at 17; its chunk took 3 s, and so will the answer.
    assert (live.lag, live.stale) == (3.0, 10.0)
