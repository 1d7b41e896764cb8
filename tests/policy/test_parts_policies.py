"""Policies made of parts, token by token."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.attention import Guidance
from hermes.decoding.observer import DecoderObserver
from hermes.errors import SettingError
from hermes.memory import KVMemory
from hermes.parts import RandomScore
from hermes.policies.fifo import Fifo
from hermes.policies.full import Full
from hermes.policies.hermes import Hermes
from hermes.policies.hermes_release import HermesRelease, release_tiers
from hermes.policies.random import Random
from hermes.policies.recent import Recent
from hermes.policies.streaming_llm import StreamingLLM
from hermes.policies.uniform import Uniform, _spread
from hermes.policy import MemoryPolicy, Recall, TieredPolicy
from hermes.session.session import StreamSession
from hermes.testing import Trial
from tests.support.memory_cases import write
from tests.support.parts_cases import context_of, memory_of, model, scaled, smoothed, stream_context, unit
from tests.support.references import FAMILIES, PlainMemory, tiny, toy_rotary

# -- policies token by token -------------------------------------------------------------------------------


class NoAttention(DecoderObserver):
    def attention(self, requests):
        assert not requests
        return {}


def held_ids(policy: MemoryPolicy, steps: int, length: int = 7) -> list[list[int]]:
    """Video token ids held after each of some chunks (of ids 0, 1, ... and four a frame)."""
    memory, plain = KVMemory(3, toy_rotary(1)), [PlainMemory(3, 2, 8, 1)]
    policy.start(stream_context(3))
    write(memory, plain, 2, 10**6, prefix=True)
    out = []
    for step in range(steps):
        write(memory, plain, length, step * length)
        policy.step(memory, NoAttention(tiny("llava_onevision"), memory))
        held = [layer.video.id[0, 0].tolist() for layer in memory]
        assert held[0] == held[1] == held[2]
        out.append(held[0])
    return out


@unit
@pytest.mark.parametrize("budget", [5, 11, 40])
def test_fifo_keeps_the_newest(budget):
    for step, held in enumerate(held_ids(Fifo(budget=budget), 6)):
        assert held == list(range(7 * step + 7))[-budget:]


@unit
@pytest.mark.parametrize("budget", [5, 11, 13])
def test_fifo_by_frame_keeps_whole_frames(budget):
    held_before: list[int] = []
    for step, held in enumerate(held_ids(Fifo(budget=budget, align="frame"), 6)):
        seen = [*held_before, *range(7 * step, 7 * step + 7)]
        if len(seen) > budget:
            newest = seen[-budget:]
            # A frame that was cut in two at the budget's edge goes whole.
            cut = {i // 4 for i in newest} & {i // 4 for i in seen[:-budget]}
            seen = [i for i in newest if i // 4 not in cut] or newest
        assert held == seen
        held_before = held


@unit
@pytest.mark.parametrize(("budget", "sinks"), [(9, 0), (9, 4), (9, 8)])
def test_streaming_llm_keeps_the_first_and_the_newest(budget, sinks):
    for step, held in enumerate(held_ids(StreamingLLM(budget=budget, sinks=sinks), 6)):
        seen = list(range(7 * step + 7))
        assert held == (seen if len(seen) <= budget else seen[:sinks] + seen[sinks - budget :])
    with pytest.raises(SettingError, match="sinks"):
        StreamingLLM(budget=4, sinks=4)


@unit
@pytest.mark.parametrize("seed", [0, 5])
def test_random_holds_the_largest_numbers_of_the_whole_stream(seed):
    """Thinned again and again, it is the sample that one draw over all tokens would be."""
    policy = Random(budget=12)
    for step, held in enumerate(held_ids(policy, 30)):
        seen = range(7 * step + 7)
        layer = memory_of({"id": seen})[0]
        number = RandomScore().score(context_of(layer))[0, 0].tolist()
        assert held == sorted(sorted(seen, key=number.__getitem__, reverse=True)[:12])


@unit
def test_uniform_spreads_over_the_whole_stream():
    for step, held in enumerate(held_ids(Uniform(budget=12), 40)):
        last = 7 * step + 6
        if last < 12:
            assert held == list(range(last + 1))
            continue
        gaps = [b - a for a, b in pairwise(held)]
        assert (held[0], held[-1], len(held)) == (0, last, 12)
        # Tokens once dropped are gone, so a gap may be up to twice the even one, and a chunk's newest too.
        assert max(gaps) <= 2 * math.ceil(last / 11)


@unit
def test_uniform_by_frame_spreads_whole_frames():
    for held in held_ids(Uniform(budget=18, align="frame"), 30, length=8)[3:]:
        frames = sorted({i // 4 for i in held})
        assert held == [4 * f + i for f in frames for i in range(4)]
        assert len(frames) == 4


@unit
@settings(max_examples=60, deadline=None, derandomize=True)
@given(values=st.lists(st.integers(0, 300), min_size=1, max_size=25, unique=True).map(sorted), data=st.data())
def test_spread_takes_the_nearest_where_they_are_distinct(values, data):
    count = data.draw(st.integers(1, len(values)))
    found = _spread(torch.tensor(values), count).tolist()
    assert found == sorted(set(found))
    assert len(found) == count
    if count > 1:
        assert (found[0], found[-1]) == (0, len(values) - 1)
    step = (values[-1] - values[0]) / max(count - 1, 1)
    distances = [[abs(value - (values[0] + i * step)) for value in values] for i in range(count)]
    nearest = [min(row) for row in distances]
    picks = [
        [j for j, d in enumerate(row) if d <= low + 1e-9] for row, low in zip(distances, nearest, strict=True)
    ]
    if len({pick[0] for pick in picks}) == len({pick[-1] for pick in picks}) == count:
        for i, j in enumerate(found):
            assert distances[i][j] <= nearest[i] + 1e-9


@unit
def test_full_keeps_everything():
    assert held_ids(Full(), 4)[-1] == list(range(28))
    assert Full().bound == "unbounded"


@model
@pytest.mark.parametrize("family", FAMILIES)
def test_recent_answers_from_the_frames_that_fit(family):
    trial = Trial("recent", tiny(family))
    group = tiny(family).frames_per_group
    cost = tiny(family).tokens_per_frame(84, 84) * group
    asked: list[tuple[int, list[int]]] = []

    class Watched(Recent):
        def recall(self, call: Recall) -> None:
            super().recall(call)
            asked.append((call.memory[0].video_length, [frame.index for frame in self.buffer.frames]))

    for policy, count in ((Watched(budget=3 * cost - 1), 2 * group), (Watched(budget=cost, frames=3), 3)):
        session = StreamSession(tiny(family), policy, chunk_frames=4)
        session.feed(trial.frames(14))
        session.ask("What now?", max_new_tokens=1)
        length, frames = asked[-1]
        assert frames == list(range(14 - count, 14))
        assert session.memory[0].video_length == 0
        if policy.frames is None:
            assert 0 < length <= policy.budget
    with pytest.raises(SettingError, match=r"policy\.budget"):
        StreamSession(tiny(family), Recent(budget=cost - 1), chunk_frames=4).feed(trial.frames(4))


@model
@pytest.mark.parametrize("schedule", ["paper", "llava", "qwen"])
def test_a_step_of_hermes_is_the_formulas(schedule):
    """Scores, smoothing and selection of every layer by loops, from observed attention."""
    backbone, layers = tiny("llava_onevision"), 10
    policy = (
        Hermes(budget=40) if schedule == "paper" else HermesRelease(budget=40, tiers=release_tiers(schedule))
    )
    mode = "exact" if schedule == "paper" else "embedding"
    weight, drop, k_drop = {"paper": (0.75, 0.6, 12), "llava": (1.0, 0.9, 19.5), "qwen": (0.75, 0.6, 12)}[
        schedule
    ]
    trial, checked = Trial("hermes", backbone), 0

    class Checked(type(policy)):
        def compress(self, memory, observe):
            nonlocal checked
            updates = super().compress(memory, observe)
            if not updates:
                return updates
            raw, ids = [], []
            for index, layer in enumerate(memory):
                n = layer.video_length
                p = (index - 1) / 6
                k = 20 if index < 1 else 20 - k_drop * p
                w = 1.0 if index < 1 else weight - drop * p if index < 7 else 0.0
                recency = scaled([math.exp(-k * (n - 1 - i) / (n - 1)) for i in range(n)])
                asked = Guidance(self.prompts.render("mixed" if index < 7 else "global"), mode)
                attention = scaled(observe.attention({index: [asked]})[index, asked][0, 0].tolist())
                raw.append([(1 - w) * a + w * r for a, r in zip(attention, recency, strict=True)])
                ids.append(layer.video.id[0, 0].tolist())
            lam = [0.1] + [0.3] * 6 + [0.4] * 3
            scores = smoothed(raw, lam, ids, "index", recursive=schedule != "paper")
            for index, layer in enumerate(memory):
                room = 40 - (index >= 7)
                best = sorted(range(layer.video_length), key=lambda i: scores[index][i], reverse=True)[:room]
                assert updates[index].keep[0, 0].tolist() == [
                    *range(layer.prefix),
                    *(layer.prefix + i for i in sorted(best)),
                ]
                gone = sorted({*range(layer.length)} - {*updates[index].keep[0, 0].tolist()})
                mix = updates[index].mix
                assert (mix is None) == (index < 7 or not gone)
                assert mix is None or mix.members[0, 0].tolist() == gone
            checked += 1
            return updates

    session = StreamSession(backbone, Checked(**vars_of(policy)), chunk_frames=4)
    session.feed(trial.frames(20))
    assert checked >= 3
    assert session.memory.lengths == [session.memory.prefix + 40] * layers


def vars_of(policy: TieredPolicy) -> dict[str, object]:
    return {name: value for name, value in vars(policy).items() if name != "context"}
