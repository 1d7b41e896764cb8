"""DSCache, StreamingVLM, hermes_recent and what they share, against lists of frames and RoPE from scratch."""

from __future__ import annotations

import pytest
import torch

from hermes import KVMemory, Recall, VideoState
from hermes.errors import SettingError
from hermes.memory import append_memory
from hermes.parts import Recency, Selection, TopK
from hermes.policies.dscache import DSCache
from hermes.policies.hermes import Hermes
from hermes.policies.hermes_recent import HermesRecent
from hermes.policies.streamingvlm import StreamingVLM
from hermes.policy import FrameBuffer, StreamContext, Tier, frames_that_fit
from hermes.session.config import run_config
from hermes.session.session import StreamSession
from hermes.testing import Trial
from tests.support.parts_cases import memory_of
from tests.support.references import FAMILIES, rope, rope_settings, tiny, toy_rotary
from tests.support.rivals import PREFIX, steps
from tests.support.tolerances import close

unit, model = pytest.mark.unit, pytest.mark.model


# -- shared ------------------------------------------------------------------------------------------------


@unit
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("room", [2, 4])
def test_frames_leave_in_order_and_in_groups(group, room):
    buffer, frames = FrameBuffer(group), Trial("fifo", tiny("llava_onevision")).frames(13)
    left: list[int] = []
    for start, stop in ((0, 1), (1, 3), (3, 8), (8, 13)):
        left += [frame.index for frame in buffer.push(frames[start:stop], room)]
        assert left == list(range(len(left)))
        assert len(left) % group == 0
        assert [frame.index for frame in buffer.frames] == list(range(len(left), stop))
        assert room - group < len(buffer.frames) <= room or stop < room
    other = FrameBuffer(group)
    other.restore(buffer.state())
    pairs = zip(other.frames, buffer.frames, strict=True)
    assert all((a.image == b.image).all() and (a.time, a.index) == (b.time, b.index) for a, b in pairs)
    other.restore(FrameBuffer().state())
    assert not other.frames


@unit
def test_frames_that_fit_are_whole_groups():
    context = StreamContext(2, 2, 100, torch.Generator(), lambda h, w: h // 10, frames_per_group=2)
    frame = Trial("fifo", tiny("llava_onevision")).frames(1)[0]
    assert [frames_that_fit(context, frame, tokens) for tokens in (16, 31, 32, 100)] == [2, 2, 4, 12]
    with pytest.raises(SettingError, match="at least 16, the tokens of one group of frames"):
        frames_that_fit(context, frame, 15)


@unit
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("written", [False, True])
def test_a_memory_behind_another_is_rope_from_scratch(axes, heads, written):
    from hermes.policies.value_norm import ValueNormPolicy

    policy = ValueNormPolicy(budget=14) if heads else StreamingVLM(budget=14)
    one, _, _ = list(steps(policy, (3, 2), axes=axes))[-1]
    other, _, _ = list(steps(StreamingVLM(budget=99), (2,), axes=axes, seed=5))[-1]
    rotary = toy_rotary(axes)
    turn = rotary.frequencies.tolist(), rotary.axis.tolist()
    if written:
        for layer in one:
            layer.written = (layer.keys, layer.positions)
    before, rows = one.fork(), [layer.rows for layer in one]
    append_memory(one, other)
    for layer, was, more, row_count in zip(one, before, other, rows, strict=True):
        assert layer.length == was.length + 12
        assert torch.equal(layer.keys[:, :, : was.length], was.keys)
        assert torch.equal(layer.values, torch.cat((was.values, more.values[:, :, PREFIX:]), 2))
        for head in range(2):
            row, clock = min(head, row_count - 1), was.clock[0, min(head, row_count - 1)]
            plain = rope(more.keys[0, head, PREFIX:], -more.positions[:, 0, 0, PREFIX:], *turn)
            places = torch.arange(12).float().expand(axes, 12) + clock
            assert torch.equal(layer.positions[:, 0, row, was.length :], places)
            close("one_shot", layer.keys[0, head, was.length :], rope(plain, places, *turn))
            assert float(layer.clock[0, row]) == float(clock) + 12
        assert torch.equal(layer.origin.id[..., was.length :], more.video.id.expand(1, row_count, 12))
        if written:
            assert torch.equal(layer.written[0], layer.keys)
            assert torch.equal(layer.written[1], layer.positions)
    assert one.next_position == max(int(layer.clock.max()) for layer in one)
    assert before.lengths == [PREFIX + (14 if heads else 12)] * 3


# -- DSCache -----------------------------------------------------------------------------------------------


def frames_held(layer) -> list[int]:
    return layer.video.frame[0, 0].unique().tolist()


@model
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("recent", "limit", "stride"), [(4, 28, 1), (2, 4, 2), (8, None, 3)])
def test_dscache_holds_a_fifo_and_sees_raw_frames_over_the_prefix(family, recent, limit, stride):
    backbone = tiny(family)
    group, trial = backbone.frames_per_group, Trial("fifo", backbone)
    cost, budget = (
        backbone.tokens_per_frame(84, 84),
        trial.budget + 2 * backbone.tokens_per_frame(84, 84) * group,
    )
    asked: list[KVMemory] = []

    class Watched(DSCache):
        def recall(self, call: Recall) -> None:
            super().recall(call)
            asked.append(call.memory.fork())

    policy = Watched(budget=budget, recent=recent, frames=limit, stride=stride)
    session = StreamSession(backbone, policy, chunk_frames=4)
    numbers, left, cached, sizes = [], 0, [], tokens_of(backbone, trial.frames(18))
    for count in (3, 4, 4, 4, 3):
        frames = trial.frames(len(numbers) + count)[len(numbers) :]
        numbers += [frame.index for frame in frames]
        session.feed(frames)
        session.flush()
        # The rule on lists: raw frames, groups of them that left, the newest of these that fit.
        raw = max(min(recent, budget // 2 // cost) // group * group, group)
        while len(numbers) - left > raw:
            cached.append(numbers[left : left + group])
            left += group
        while cached and (
            sum(sizes[one[0] // group] for one in cached) > budget - raw * cost
            or (limit is not None and len(cached) > max(limit // group, 1))
        ):
            cached.pop(0)
        assert len(frames_held(session.memory[0])) == len(cached)
        assert session.memory[0].video_length <= budget - raw * cost
    before = [tensor.clone() for tensor in session.memory.state()]
    session.ask("What now?", max_new_tokens=1)
    assert all(torch.equal(a, b) for a, b in zip(before, session.memory.state(), strict=True))

    memory, kept = asked[0], cached[::-1][::stride][::-1]
    assert [frame.index for frame in policy_frames(session)] == numbers[left:]
    frequencies, axis = rope_settings(backbone)
    alone = prefix_only(backbone, policy_frames(session))
    for layer, other in zip(memory, alone, strict=True):
        old = layer.prefix + sum(sizes[one[0] // group] for one in kept)
        held = session.memory[layer.index]
        assert (
            layer.origin.frame[0, 0, layer.prefix : old].unique().tolist()
            == frames_held(held)[::-1][::stride][::-1]
        )
        assert layer.length - old == other.video_length
        plain = rope(
            other.keys[0, :, other.prefix :], -other.positions[:, 0, 0, other.prefix :], frequencies, axis
        )
        expected = rope(plain, layer.positions[:, 0, 0, old:], frequencies, axis)
        close("one_shot", layer.keys[0, :, old:], expected)
        close("one_shot", layer.values[0, :, old:], other.values[0, :, other.prefix :])
        if backbone.axes == 1:
            assert layer.positions[0, 0, 0].tolist() == list(range(layer.length))
        assert layer.length <= layer.prefix + budget


def tokens_of(backbone, frames) -> list[int]:
    """Tokens of each frame, or group of frames."""
    chunk = backbone.video(frames, VideoState(), fps=backbone.fps)
    return chunk.tokens.frame.unique(return_counts=True)[1].tolist()


def policy_frames(session):
    return list(session.policy.buffer.frames)


def prefix_only(backbone, frames):
    """The memory of a stream of these frames alone."""
    session = StreamSession(backbone, Hermes(budget=10_000), chunk_frames=16)
    session.feed(frames)
    session.flush()
    return session.memory


@model
def test_dscache_goes_on_from_a_saved_stream(tmp_path):
    backbone, frames = tiny("qwen2_5_vl"), Trial("fifo", tiny("qwen2_5_vl")).frames(20)
    whole, first, second = (StreamSession(backbone, DSCache(budget=60), chunk_frames=4) for _ in range(3))
    whole.feed(frames)
    first.feed(frames[:12])
    first.save(tmp_path)
    second.resume(tmp_path)
    second.feed(frames[12:])
    assert all(torch.equal(a, b) for a, b in zip(whole.memory.state(), second.memory.state(), strict=True))
    assert torch.equal(whole.ask("What?").ids, second.ask("What?").ids)


# -- StreamingVLM ------------------------------------------------------------------------------------------


@unit
@pytest.mark.parametrize(
    ("budget", "window", "length"), [(30, 16, 2.0), (99, 3, 1.0), (99, 2, 2.5), (5, 16, 1.0)]
)
def test_streamingvlm_keeps_whole_rounds(budget, window, length):
    policy = StreamingVLM(budget=budget, window=window, round=length)
    frames: list[int] = []
    for count, (_, layers, _) in zip((4, 3, 5, 1, 2), steps(policy, (4, 3, 5, 1, 2)), strict=True):
        start = frames[-1] + 1 if frames else 0
        frames += range(start, start + count)
        # Frames are a second apart, of 6 tokens.
        rounds = sorted({int(f // length) for f in frames})
        while rounds and (
            sum(6 for f in frames if int(f // length) in rounds) > budget or rounds[0] <= rounds[-1] - window
        ):
            rounds.pop(0)
        held = sorted(set(layers[0].after[0].frame[PREFIX:].tolist()))
        frames = [f for f in frames if int(f // length) in rounds] or frames[-1:]
        assert held == frames
        for step in layers:
            assert len(step.after[0]) - PREFIX == min(6 * len(frames), budget)
            if step.update is not None:
                assert torch.equal(step.now.positions[0, 0, 0], torch.arange(step.now.length).float())


# -- the newest frames and hierarchical memory -------------------------------------------------------------


@unit
@pytest.mark.parametrize(("count", "budget"), [(2, 20), (3, 20), (4, 9), (2, 5)])
def test_the_newest_frames_are_kept_whole(count, budget):
    frame = [0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    score = torch.linspace(1, 0, 15).view(1, 1, -1)
    layer = memory_of({"id": range(15), "frame": frame, "kind": 1})[0]
    chosen = TopK(recent_frames=count).select([Selection(layer, score, budget, "a")])[0][0, 0].tolist()
    whole: list[int] = []
    for number in (4, 3, 2, 1)[:count]:
        own = [i for i, f in enumerate(frame) if f == number]
        if len(whole) + len(own) > min(budget, 15) // 2:
            break
        whole += own
    rest = [i for i in range(15) if i not in whole]
    assert sorted(chosen) == sorted((whole + rest)[:budget])


@model
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("over", ["memory", "prefix"])
def test_hermes_recent_is_hermes_for_the_frames_that_left(family, over):
    backbone = tiny(family)
    group, cost = backbone.frames_per_group, backbone.tokens_per_frame(84, 84)
    budget, frames = 8 * cost * group, Trial("fifo", backbone).frames(16)
    asked: list[tuple[int, KVMemory]] = []

    class Watched(HermesRecent):
        def recall(self, call: Recall) -> None:
            before = call.memory[0].video_length
            super().recall(call)
            asked.append((before, call.memory.fork()))

    session = StreamSession(backbone, Watched(budget=budget, frames=4, share=0.5, over=over), chunk_frames=4)
    session.feed(frames)
    plain = StreamSession(backbone, Hermes(budget=budget // 2), chunk_frames=4)
    plain.feed(frames[:12])
    for mine, theirs in zip(session.memory.state(), plain.memory.state(), strict=True):
        assert torch.equal(mine, theirs)
    session.ask("What?", max_new_tokens=1)
    before, new = asked[0]
    held = session.memory
    assert before == held[0].video_length
    count = len(frames_in(new, held))
    assert count == 4 // group
    for layer, was in zip(new, held, strict=True):
        assert layer.video_length - was.video_length == sum(tokens_of(backbone, frames)[-4 // group :])
        assert layer.video_length <= budget
    if over == "prefix":
        alone = prefix_only(backbone, frames[12:])
        close("one_shot", new[3].values[:, :, held[3].length :], alone[3].values[:, :, alone.prefix :])
    else:
        plain.policy.budget = 10_000
        plain.feed(frames[12:])
        for ours, theirs in zip(new, plain.memory, strict=True):
            close("one_shot", ours.keys, theirs.keys)
            close("one_shot", ours.values, theirs.values)


def frames_in(new, held) -> list[int]:
    return new[0].origin.frame[0, 0, held[0].length :].unique().tolist()


@unit
def test_hermes_recent_splits_the_budget():
    policy = HermesRecent(budget=101, share=0.3)
    assert policy.room == 71
    assert policy.budgets(4) == [71] * 4
    policy.tiers["sensory"].weight = 2.0
    assert sum(policy.budgets(10)) == 710
    assert HermesRecent(tiers={"all": Tier(1.0, Recency())}).watch() is None


@model
def test_hermes_recent_needs_room_for_a_frame():
    backbone = tiny("llava_onevision")
    cost = backbone.tokens_per_frame(84, 84)
    session = StreamSession(backbone, HermesRecent(budget=4 * cost, share=0.2), chunk_frames=4)
    with pytest.raises(SettingError, match=f"at least {cost}, the tokens of one frame"):
        session.feed(Trial("fifo", backbone).frames(4))


@unit
def test_the_hybrids_are_an_ablation_away():
    def difference(name: str) -> dict[str, object]:
        from hermes.config import to_dict

        one, other = (
            to_dict(run_config([f"policy={name}"]).policy),
            to_dict(run_config(["policy=hermes"]).policy),
        )
        return {key: value for key, value in one.items() if value != other.get(key)}

    assert list(difference("hermes_kept")) == ["selector"]
    assert list(difference("hermes_mass")) == ["tiers"]
    assert list(difference("hermes_identity")) == ["smoother"]
    assert list(difference("hermes_shared")) == ["selector"]
    assert set(difference("hermes_recent")) == {"name", "frames", "share", "over"}
    assert run_config(["policy=simplestream"]).policy.frames == 4
