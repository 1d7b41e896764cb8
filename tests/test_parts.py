"""Scorers, smoothers, selectors, mergers, re-indexers, tiers and the simple policies, against loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.errors import SettingError
from hermes.memory import KVMemory
from hermes.observe import Guidance, Observer
from hermes.parts import (
    Blend,
    Chain,
    Drop,
    Eager,
    GuidedAttention,
    LayerContext,
    Lazy,
    Never,
    RandomScore,
    Recency,
    Selection,
    Summary,
    TopK,
)
from hermes.policy import MemoryPolicy, Recall, StreamContext
from hermes.provenance import Kind, Provenance
from hermes.session import StreamSession
from hermes.testing import Trial
from hermes.tiers import Tier, TieredPolicy
from policies.fifo import Fifo
from policies.full import Full
from policies.hermes import Hermes
from policies.hermes_release import HermesRelease, release_tiers
from policies.random import Random
from policies.recent import Recent
from policies.streaming_llm import StreamingLLM
from policies.uniform import Uniform, _spread
from tests.references import FAMILIES, PlainMemory, tiny, toy_rotary
from tests.test_memory import toy, write
from tests.tolerances import close

unit, model = pytest.mark.unit, pytest.mark.model


def memory_of(*layers: Sequence[dict[str, object]], prefix: int = 2) -> KVMemory:
    """A memory whose layers hold tokens with the provenance given, one mapping of columns a layer."""
    memory = KVMemory(len(layers), toy_rotary(1))
    for index, columns in enumerate(layers):
        length = max(len(value) for value in columns.values() if not isinstance(value, int))
        memory.update(torch.randn(1, 2, prefix + length, 8), torch.randn(1, 2, prefix + length, 8), index)
        head = Provenance.text(prefix, first_id=-1000, kind=Kind.PREFIX)
        body = Provenance.of(length, **{name: torch.as_tensor(value) for name, value in columns.items()})
        layer = memory[index]
        layer.positions = torch.arange(prefix + length).float().view(1, 1, 1, -1)
        layer.tokens = Provenance(Provenance.cat([head, body]).table[:, None, None])
        layer.clock = torch.full((1, 1), float(prefix + length))
        layer.prefix = prefix
        layer.has_timestamps = bool((body.kind == int(Kind.TIMESTAMP)).any())
        layer.has_protected = bool(body.protected.any())
    memory.prefix = prefix
    memory.align()
    return memory


def context_of(layer, depth: float = 0.0, seed: int = 0, **attention: torch.Tensor) -> LayerContext:
    observed = {Guidance(text): mass for text, mass in attention.items()}
    generator = torch.Generator().manual_seed(seed)
    return LayerContext(layer, depth, False, lambda kind: f"ask_{kind}", generator, observed)


def scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low + 1e-6) for value in values]


# -- scorers -----------------------------------------------------------------------------------------------


@unit
@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize(("k", "drop", "depth"), [(20, 0, 0.4), (20, 12, 0.5), (20, 19.5, 5 / 6), (0, 0, 0)])
def test_recency_forgets_exponentially(length, k, drop, depth):
    layer = memory_of({"id": range(length)})[0]
    age = [(length - 1 - i) / max(length - 1, 1) for i in range(length)]
    expected = scaled([math.exp(-(k - drop * depth) * a) for a in age])
    close("scores", Recency(k, drop).score(context_of(layer, depth))[0, 0], torch.tensor(expected))


@unit
def test_blend_weighs_attention_against_recency():
    layer = memory_of({"id": range(6)})[0]
    mass = torch.tensor([[[0.3, 0.1, 0.05, 0.2, 0.1, 0.02]]])
    scorer = Blend(GuidedAttention(prompt="mixed"), Recency(k_drop=12.0), 0.75, 0.6)
    context = context_of(layer, 0.5, ask_mixed=mass)
    assert list(scorer.queries(context)) == [Guidance("ask_mixed")]
    recency = scaled([math.exp(-14 * (5 - i) / 5) for i in range(6)])
    attention = scaled(mass[0, 0].tolist())
    expected = [0.55 * a + 0.45 * r for a, r in zip(attention, recency, strict=True)]
    close("scores", scorer.score(context)[0, 0], torch.tensor(expected))


@unit
def test_random_numbers_stay_with_their_token():
    memory = memory_of({"id": range(1000)}, {"id": range(500, 1500)})
    one, two = (RandomScore().score(context_of(layer))[0, 0] for layer in memory)
    assert torch.equal(one[500:], two[:500])
    assert torch.equal(one, RandomScore().score(context_of(memory[0]))[0, 0])
    assert not torch.equal(one, RandomScore().score(context_of(memory[0], seed=1))[0, 0])
    assert one.unique().numel() > 990
    # Ten equal bins, 150 of 1500 expected in each: five standard deviations are 58.
    counts = torch.histc(torch.cat((one, two[500:])), bins=10, min=0, max=1)
    assert (counts - 150).abs().max() < 58
    RandomScore().score(context_of(memory[0], seed=2**63))
    redrawn = RandomScore(redraw=True)
    context = context_of(memory[0])
    assert not torch.equal(redrawn.score(context), redrawn.score(context))


# -- smoothing ---------------------------------------------------------------------------------------------


def stretched(values: list[float], length: int) -> list[float]:
    """Linear interpolation between the middles of equal cells."""
    out = []
    for i in range(length):
        at = min(max((i + 0.5) * len(values) / length - 0.5, 0.0), len(values) - 1.0)
        low = math.floor(at)
        high = min(low + 1, len(values) - 1)
        out.append(values[low] + (at - low) * (values[high] - values[low]))
    return out


def smoothed(scores, weights, ids, align: str, recursive: bool) -> list[list[float]]:
    out = [list(score) for score in scores]
    for layer in range(len(scores) - 2, -1, -1):
        above = out[layer + 1] if recursive else scores[layer + 1]
        if align == "index":
            matched = stretched(above, len(scores[layer]))
        else:
            known = dict(zip(ids[layer + 1], above, strict=True))
            matched = [known.get(token, own) for token, own in zip(ids[layer], scores[layer], strict=True)]
        lam = weights[layer]
        out[layer] = [(1 - lam) * own + lam * up for own, up in zip(scores[layer], matched, strict=True)]
    return out


layer_ids = st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True).map(sorted)


@unit
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    ids=st.lists(layer_ids, min_size=1, max_size=5),
    align=st.sampled_from(["index", "identity"]),
    recursive=st.booleans(),
    data=st.data(),
)
def test_smoothing_down_the_layers(ids, align, recursive, data):
    weights = [data.draw(st.sampled_from([0.0, 0.1, 0.4])) for _ in ids]
    wanted = [data.draw(st.booleans()) for _ in ids]
    scores = [[math.sin(7 * token + 3 * layer) for token in row] for layer, row in enumerate(ids)]
    expected = smoothed(scores, weights, ids, align, recursive)
    memory = memory_of(*({"id": row} for row in ids))
    chain = Chain(align, recursive)
    tensors = [torch.tensor(row).view(1, 1, -1) for row in scores]
    for row, ours in zip(expected, chain.smooth(tensors, weights, memory.layers), strict=True):
        close("scores", ours[0, 0], torch.tensor(row))
    # What is not needed need not be there.
    needed = chain.needs(wanted, weights)
    some = [tensor if need else None for tensor, need in zip(tensors, needed, strict=True)]
    for want, row, ours in zip(wanted, expected, chain.smooth(some, weights, memory.layers), strict=True):
        if want:
            close("scores", ours[0, 0], torch.tensor(row))
    assert [score is None for score in chain.smooth(some, weights, memory.layers)] == [not n for n in needed]


@unit
def test_smoothing_needs_no_more_than_it_must():
    wanted = [True, False, False, False, True]
    assert Chain().needs(wanted, [0.1] * 5) == [True, True, False, False, True]
    assert Chain(recursive=True).needs(wanted, [0.1] * 5) == [True] * 5
    assert Chain(recursive=True).needs(wanted, [0.1, 0.3, 0.0, 0.4, 0.4]) == [True, True, True, False, True]
    assert Chain().needs(wanted, [0.0] * 5) == wanted


# -- selection ---------------------------------------------------------------------------------------------


@unit
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data(), length=st.integers(1, 24), recent=st.integers(0, 6), per_frame=st.integers(0, 3))
def test_top_k_takes_what_is_set_aside_then_the_best(data, length, recent, per_frame):
    """Protected tokens, then the newest, then each frame's best, then the rest by score."""
    frame = sorted(data.draw(st.lists(st.integers(0, 4), min_size=length, max_size=length)))
    protected = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    score = data.draw(st.permutations(range(length)))
    budget = data.draw(st.integers(1, length + 3))
    columns = {"id": range(length), "frame": frame, "protected": [int(p) for p in protected], "kind": 1}
    layer = memory_of(columns)[0]
    chosen = TopK(recent=recent, per_frame=per_frame).select(
        [Selection(layer, torch.tensor(score).float().view(1, 1, -1), budget, "a")]
    )[0]

    def rank(i: int) -> tuple[bool, bool, bool, int]:
        better = sum(1 for j in range(length) if frame[j] == frame[i] and score[j] > score[i])
        return (protected[i], i >= length - recent, better < per_frame, score[i])

    expected = sorted(range(length), key=rank, reverse=True)[:budget]
    assert sorted(chosen[0, 0].tolist()) == sorted(expected)


@unit
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), frames=st.integers(1, 5), budget=st.integers(1, 12))
def test_the_best_frames_keep_their_timestamps_whole(data, frames, budget):
    kinds, frame = [], []
    for number in range(frames):
        visual = data.draw(st.integers(0, 4))
        kinds += [int(Kind.TIMESTAMP)] * 2 + [int(Kind.VISUAL)] * visual
        frame += [number] * (2 + visual)
    length = len(kinds)
    score = data.draw(st.permutations(range(length)))
    layer = memory_of({"id": range(length), "frame": frame, "kind": kinds})[0]
    selection = Selection(layer, torch.tensor(score).float().view(1, 1, -1), budget, "a")
    kept = TopK(timestamps=0.5).select([selection])[0][0, 0].tolist()

    visual = {f: [i for i in range(length) if frame[i] == f and kinds[i] == Kind.VISUAL] for f in frame}
    best = {f: max(own, key=score.__getitem__) for f, own in visual.items() if own}
    room, first = int(0.5 * min(budget, length)), []
    for f in sorted(best, key=lambda f: score[best[f]], reverse=True):
        whole = [best[f], *(i for i in range(length) if frame[i] == f and kinds[i] == Kind.TIMESTAMP)]
        if len(first) + len(whole) > room:
            break
        first += whole
    rest = [i for i in range(length) if i not in first]
    rest.sort(key=lambda i: (kinds[i] == Kind.VISUAL, score[i]), reverse=True)
    assert sorted(kept) == sorted((first + rest)[:budget])
    alone = TopK(timestamps=0.0).select([selection])[0][0, 0].tolist()
    assert sorted(score[i] for i in alone) == sorted(score, reverse=True)[:budget][::-1]


@unit
@pytest.mark.parametrize("rank", ["tier", "all"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(ids=st.lists(layer_ids, min_size=1, max_size=5), budget=st.integers(1, 8), data=st.data())
def test_a_shared_ranking_averages_over_the_layers_that_hold_a_token(rank, ids, budget, data):
    tiers = [data.draw(st.sampled_from(["a", "b"])) for _ in ids]
    scores = [[math.sin(7 * token + 3 * layer) for token in row] for layer, row in enumerate(ids)]
    memory = memory_of(*({"id": row, "kind": 1} for row in ids))
    selections = [
        Selection(layer, torch.tensor(row).view(1, 1, -1), budget, tier)
        for layer, row, tier in zip(memory, scores, tiers, strict=True)
    ]
    for at, kept in enumerate(TopK(rank=rank).select(selections)):
        group = [i for i in range(len(ids)) if rank == "all" or tiers[i] == tiers[at]]

        def mean(token: int, group: list[int] = group) -> float:
            held = [scores[i][ids[i].index(token)] for i in group if token in ids[i]]
            return sum(held) / len(held)

        expected = sorted(ids[at], key=mean, reverse=True)[:budget]
        assert sorted(ids[at][slot] for slot in kept[0, 0].tolist()) == sorted(expected)


@unit
def test_every_head_ranks_for_itself_or_all_rank_their_mean():
    layer = memory_of({"id": range(4), "kind": 1})[0]
    scores = torch.tensor([[[4.0, 3, 2, 1], [0.0, 5, 8, 1]]])
    one = Selection(layer, scores, 2, "a")
    assert TopK(rank="kv_head").per_head
    assert TopK(rank="kv_head").select([one])[0].sort().values.tolist() == [[[0, 1], [1, 2]]]
    assert TopK().select([one])[0].sort().values.tolist() == [[[1, 2]]]
    layer.widen(2)
    assert TopK().select([one])[0].sort().values.tolist() == [[[0, 1], [1, 2]]]


# -- tiers and budgets -------------------------------------------------------------------------------------


@unit
@pytest.mark.parametrize("layers", range(1, 81))
def test_tiers_of_the_paper_for_any_depth(layers):
    short, long = Fraction(1, 10) * layers, Fraction(7, 10) * layers
    expected = {
        "sensory": range(0, math.floor(short)),
        "working": range(math.floor(short), math.floor(long)),
        "long_term": range(math.floor(long), layers),
    }
    for policy in (Hermes(), HermesRelease()):
        assert policy.boundaries(layers) == expected


@unit
@settings(max_examples=80, deadline=None, derandomize=True)
@given(parts=st.lists(st.integers(1, 9), min_size=1, max_size=7), layers=st.integers(1, 80))
def test_any_shares_cover_every_layer_once(parts, layers):
    total = sum(parts)
    tiers = {f"t{i}": Tier(part / total, Recency()) for i, part in enumerate(parts)}
    found = TieredPolicy(tiers=tiers).boundaries(layers)
    assert [layer for held in found.values() for layer in held] == list(range(layers))
    for i, name in enumerate(tiers):
        assert found[name].stop == math.floor(Fraction(sum(parts[: i + 1]), total) * layers)


@unit
@pytest.mark.parametrize(
    "weights", [("1.3", "1", "0.7"), ("0.7", "1.6", "0.7"), ("0.7", "1", "1.3"), ("1", "1", "1")]
)
@pytest.mark.parametrize("layers", [10, 24, 28, 36, 64])
@pytest.mark.parametrize("budget", [6000, 4000, 257])
def test_budgets_by_weight_as_in_table_5(weights, layers, budget):
    policy = Hermes(budget=budget)
    per_layer = []
    for (name, tier), weight in zip(policy.tiers.items(), weights, strict=True):
        tier.weight = float(weight)
        per_layer += [Fraction(weight)] * len(policy.boundaries(layers)[name])
    total = budget * layers
    expected = [math.floor(weight / sum(per_layer) * total) for weight in per_layer]
    expected[-1] += total - sum(expected)
    assert policy.budgets(layers) == expected
    assert sum(policy.budgets(layers)) == total


@unit
def test_tiers_that_do_not_cover_the_layers_are_refused():
    with pytest.raises(SettingError, match=r"They sum to 0\.9"):
        TieredPolicy(tiers={"a": Tier(0.5, Recency()), "b": Tier(0.4, Recency())})
    with pytest.raises(SettingError, match="no tier"):
        TieredPolicy()
    tight = Hermes(budget=1)
    with pytest.raises(SettingError, match=r"policy\.budget"):
        tight.start(stream_context())


# -- mergers and re-indexers -------------------------------------------------------------------------------


@unit
def test_summary_weights():
    layer = memory_of({"id": range(5), "mass": [1, 6, 1, 2, 1]})[0]
    evicted = torch.tensor([[[3, 4, 5]]])  # tokens 1, 2 and 3: two prefix tokens come before
    assert Drop().merge(layer, evicted) is None
    assert (Drop().slots, Summary().slots) == (0, 1)
    mean, mass = (Summary(weights).merge(layer, evicted) for weights in ("mean", "mass"))
    assert mean.members.tolist() == mass.members.tolist() == [[[3, 4, 5]]]
    close("scores", mean.weights, torch.full((1, 1, 3), 1 / 3))
    close("scores", mass.weights, torch.tensor([[[6 / 9, 1 / 9, 2 / 9]]]))


@unit
@pytest.mark.parametrize(
    ("reindexer", "above", "compressing", "due"),
    [
        (Never(), 10**6, True, False),
        (Eager(), -50, True, True),
        (Eager(), 10**6, False, False),
        (Lazy(margin=30, whole_chunk=False), 0, True, False),
        (Lazy(margin=30, whole_chunk=False), 1, True, True),
        (Lazy(margin=30, whole_chunk=False), 1, False, True),
        (Lazy(margin=30, whole_chunk=False, only_compressing=True), 1, False, False),
        (Lazy(margin=22), 0, True, False),
        (Lazy(margin=22), 1, True, True),
    ],
    ids=repr,
)
def test_when_positions_are_compacted(reindexer, above, compressing, due):
    """The largest position is so far ``above`` a limit that is 30 below the range; a chunk takes 8."""
    memory, _ = toy()
    max_position = int(memory.largest_position()) + 30 - above
    assert reindexer.due(memory, compressing=compressing, max_position=max_position, extent=8) is due


@unit
def test_the_release_keeps_a_margin_of_1024_and_looks_when_it_evicts():
    assert HermesRelease().reindex == Lazy(margin=1024, whole_chunk=False, only_compressing=True)
    assert Hermes().reindex == Lazy(margin=1024)


# -- policies token by token -------------------------------------------------------------------------------


class NoAttention(Observer):
    def attention(self, requests):
        assert not requests
        return {}


def stream_context(layers: int = 10, seed: int = 0) -> StreamContext:
    return StreamContext(layers, 2, 10**6, torch.Generator().manual_seed(seed), lambda h, w: 4)


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
