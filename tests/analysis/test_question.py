"""What questions look at, against transformers' eager attention; profiles, against loops over tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor

from hermes.analysis.mass import LayerMass
from hermes.analysis.profiles import AXES, FLOOR, Profiles, Running, profile
from hermes.analysis.question import QuestionProbe, ask_watched, read_watched
from hermes.attention import Guidance
from hermes.decoding.observer import DecoderObserver
from hermes.policies.fifo import Fifo
from hermes.policies.full import Full
from hermes.policies.hermes import Hermes
from hermes.session.session import StreamSession
from hermes.tokens import Chunk, Provenance
from tests.support.probe_cases import LOCAL, OTHER, eager_attentions, frames
from tests.support.references import FAMILIES, cloned, identical, new_memory, noise_chunk, prefill, tiny

TOLERANCE = 1e-6


def text_chunk(backbone, text: str) -> Chunk:
    embeds = backbone.embed(backbone.encode(text))
    n = embeds.shape[1]
    return Chunk(embeds, torch.arange(float(n)).expand(backbone.axes, n), n, Provenance.text(n), 0)


# -- the probe --------------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_masses_are_column_means_of_eager_attention(family, ragged, per_head):
    backbone = tiny(family)
    chunks = [noise_chunk(backbone, n, seed, text=seed == 0) for seed, n in ((0, 5), (1, 20), (2, 12))]
    memory, kept = new_memory(backbone), None
    for chunk in chunks:
        prefill(backbone, memory, chunk, prefix=chunk is chunks[0])
    if ragged:
        # Every layer another number of tokens.
        rng = np.random.default_rng(0)
        # The newest stays, after which a layer's positions go on.
        video = [np.append(np.sort(rng.permutation(31)[: 9 + 2 * i]), 31) for i in range(10)]
        kept = [[*range(5), *(5 + v).tolist()] for v in video]
        memory.apply({i: memory[i].keeping(torch.from_numpy(v)) for i, v in enumerate(video)})
        assert len(set(memory.lengths)) == backbone.num_layers
    eager = eager_attentions(backbone, chunks, LOCAL, kept)
    probe = QuestionProbe(now=9.0, per_head=per_head)
    prefill(backbone, memory, text_chunk(backbone, LOCAL), probe=probe)
    found = probe.result()
    assert len(found) == backbone.num_layers
    for layer, heads in enumerate(found):
        weights = eager[layer] if kept is None else eager[layer][..., kept[layer]]
        groups = backbone.num_kv_heads if per_head else 1
        expected = weights.unflatten(0, (groups, -1)).mean((1, 2)).numpy()
        assert len(heads) == groups
        for head, one in enumerate(heads):
            np.testing.assert_allclose(one.mass, expected[head], rtol=0, atol=TOLERANCE)


class Note(LogitsProcessor):
    """Keeps the scores of every token."""

    def __init__(self) -> None:
        self.scores = []

    def __call__(self, input_ids, scores):
        self.scores.append(scores.clone())
        return scores


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
def test_a_watched_question_is_answered_the_same(family):
    backbone = tiny(family)
    states = []
    for watched in (False, True):
        session = StreamSession(backbone, Hermes(budget=60), chunk_frames=4)
        session.feed(frames(12))
        before = cloned(session.memory)
        note = Note()
        more = {"max_new_tokens": 4, "processors": [note]}
        answer = ask_watched(session, OTHER, **more)[0] if watched else session.ask(OTHER, **more)
        assert identical(session.memory, before)
        states.append((answer.ids.tolist(), note.scores))
    assert states[0][0] == states[1][0]
    assert all(torch.equal(a, b) for a, b in zip(states[0][1], states[1][1], strict=True))


@pytest.mark.model
def test_the_answer_is_not_watched():
    session = StreamSession(tiny("llava_onevision"), Fifo(budget=40), chunk_frames=4)
    session.feed(frames(8))
    short, long = (ask_watched(session, OTHER, max_new_tokens=n)[1] for n in (1, 6))
    for (one,), (other,) in zip(short, long, strict=True):
        assert np.array_equal(one.mass, other.mass)
    text = Guidance(session.backbone.question_text(OTHER), control=True)
    observed = DecoderObserver(session.backbone, session.memory).attention({i: [text] for i in range(10)})
    prefix = session.memory.prefix
    for layer, (one,) in enumerate(short):
        np.testing.assert_allclose(one.mass[prefix:], observed[layer, text][0, 0], rtol=0, atol=TOLERANCE)
        assert 0 < one.mass[:prefix].sum() < 1 - one.mass[prefix:].sum()


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
def test_a_read_text_is_what_policies_observe(family):
    backbone = tiny(family)
    session = StreamSession(backbone, Hermes(budget=60), chunk_frames=4)
    session.feed(frames(12))
    before = cloned(session.memory)
    found = read_watched(session, LOCAL)
    assert identical(session.memory, before)
    observed = session.observer.attention({layer: [Guidance(LOCAL)] for layer in range(10)})
    for layer, (one,) in enumerate(found):
        np.testing.assert_allclose(
            one.mass[session.memory.prefix :],
            observed[layer, Guidance(LOCAL)][0, 0],
            rtol=0,
            atol=TOLERANCE,
        )


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
def test_masses_say_where_tokens_are_from(family):
    backbone = tiny(family)
    policy = Hermes(budget=50)
    policy.selector.rank = "kv_head"
    session = StreamSession(backbone, policy, chunk_frames=4)
    session.feed(frames(16))
    session.now = 20.0
    found = ask_watched(session, OTHER, max_new_tokens=1)[1]
    tables = [layer.origin for layer in session.memory]
    width = 1 + max(int(table.col.max()) for table in tables)
    kinds = set()
    for layer, table in zip(found, tables, strict=True):
        assert len(layer) == backbone.num_kv_heads == table.table.shape[2]
        for head, one in enumerate(layer):
            row = table.table[:, 0, head]
            for slot in range(row.shape[-1]):
                _, frame, time_us, patch_row, patch_col, kind, *_ = row[:, slot].tolist()
                kinds.add(kind)
                assert one.frame[slot] == frame
                assert one.age[slot] == pytest.approx(20.0 - time_us / 1e6)
                place = patch_row * width + patch_col if patch_col >= 0 else -1
                assert one.patch[slot] == place
            assert (one.video.frame >= 0).all()
    # Prefix, visual and summary tokens were all among them.
    assert {0, 1, 3} <= kinds


@pytest.mark.model
def test_an_image_newline_is_held_but_not_the_question():
    backbone = tiny("llava_onevision", "float32")
    native = type(backbone).load(type(backbone.config)(family=backbone.config.family, layout="native"))
    session = StreamSession(native, Full(), chunk_frames=4)
    session.feed(frames(4))
    probe = QuestionProbe(session.now)
    session.ask(OTHER, probe=probe, max_new_tokens=1)
    for layer, (one,) in enumerate(probe.result()):
        assert len(one.mass) == session.memory.lengths[layer] + 1
        assert (one.frame[-1], one.patch[-1]) == (-1, -1)


# -- profiles ---------------------------------------------------------------------------------------------


def random_layer(seed: int, tokens: int = 40) -> LayerMass:
    rng = np.random.default_rng(seed)
    frame = np.sort(rng.integers(-1, 9, tokens))
    patch = np.where(frame < 0, -1, rng.integers(-1, 6, tokens))
    return LayerMass(rng.dirichlet(np.ones(tokens)), frame, 2.0 * (9 - frame), patch)


@pytest.mark.unit
@pytest.mark.parametrize("seed", range(4))
def test_profiles_are_means_over_the_tokens_there(seed):
    layer = random_layer(seed)
    tokens = [
        (layer.mass[i], layer.age[i], layer.patch[i]) for i in range(len(layer.mass)) if layer.frame[i] >= 0
    ]
    assert profile(layer, "index", 2.0).tolist() == [mass for mass, _, _ in reversed(tokens)]
    for axis in ("age", "patch"):
        bins: dict[int, list[float]] = {}
        for mass, age, patch in tokens:
            # Frames of two seconds: one that began 2 s ago is in the first bin, one of 4 s in the second.
            place = int(age / 2) - 1 if axis == "age" else int(patch)
            if place >= 0:
                bins.setdefault(place, []).append(mass)
        found = profile(layer, axis, 2.0)
        assert len(found) == max(bins) + 1
        for place, value in enumerate(found):
            expected = np.mean(bins[place]) if place in bins else np.nan
            np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.unit
def test_the_newest_frame_is_in_the_first_bin_of_age():
    ages = np.array([3.0, 1.0, 0.5, 0.0])
    layer = LayerMass(np.array([0.1, 0.2, 0.3, 0.4]), np.arange(4), ages, np.zeros(4, int))
    assert profile(layer, "age", 1.0).tolist()[0] == pytest.approx(0.3)


@pytest.mark.unit
def test_running_statistics_are_those_of_everything_at_once():
    rng = np.random.default_rng(0)
    values = rng.lognormal(-8, 3, (50, 3, 7))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[3, 1, 2] = 0.0
    values[:, 2, 6] = np.nan
    whole, halves = Running(), [Running(), Running()]
    for number, one in enumerate(values):
        # Some matrices are narrower: their last columns hold nothing.
        width = 7 if number % 3 else 5
        values[number, :, width:] = np.nan
        whole.add(one[:, :width])
        halves[number % 2].add(one[:, :width])
    halves[0].merge(halves[1])
    logs = np.log(np.maximum(values, FLOOR))
    for running in (whole, halves[0]):
        there = running.count > 0
        assert np.array_equal(running.count, np.isfinite(values).sum(0))
        assert not there[2, 6]
        np.testing.assert_allclose(running.mean[there], np.nanmean(values[:, there], axis=0), rtol=1e-10)
        np.testing.assert_allclose(running.log[there], np.nanmean(logs[:, there], axis=0), rtol=1e-10)
        np.testing.assert_allclose(
            running.variance[there], np.nanvar(values[:, there], axis=0, ddof=1), rtol=1e-8
        )
        assert np.isnan(running.variance[2, 6])


@pytest.mark.unit
def test_profiles_of_heads_are_averaged_and_come_back_from_arrays():
    heads = [[random_layer(seed), random_layer(seed + 10, 33)] for seed in range(3)]
    profiles = Profiles(2.0)
    profiles.add(heads)
    profiles.add(heads)
    for axis in AXES:
        running = profiles.by[axis]
        for layer, pair in enumerate(heads):
            rows = [profile(head, axis, 2.0) for head in pair]
            for place in range(running.count.shape[1]):
                known = [row[place] for row in rows if place < len(row) and np.isfinite(row[place])]
                assert running.count[layer, place] == (2 if known else 0)
                if known:
                    assert running.mean[layer, place] == pytest.approx(np.mean(known))
    again = Profiles.of(2.0, profiles.arrays("x"), "x")
    for axis in AXES:
        for ours, theirs in zip(again.by[axis].parts(), profiles.by[axis].parts(), strict=True):
            assert np.array_equal(ours, theirs)
