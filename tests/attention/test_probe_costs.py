"""What observing does not compute, and attention probes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from hermes import AttentionMass, AttentionProbe, open_session
from hermes.attention import Guidance
from hermes.backbone import BackboneConfig, load_backbone
from hermes.decoding.observer import DecoderObserver
from hermes.kernels import Kernels
from hermes.policies.fifo import Fifo
from hermes.policies.full import Full
from hermes.policies.hermes import Hermes
from hermes.policies.random import Random
from hermes.session.config import run_config
from hermes.session.session import Callback, StreamSession
from tests.support.probe_cases import LOCAL, MIXED, OTHER, filled, frames
from tests.support.references import (
    FAMILIES,
    cloned,
    counting,
    eager_mass,
    identical,
    noise_chunk,
    prefill,
    tiny,
)
from tests.support.tolerances import close

pytestmark = pytest.mark.model


# -- what is not computed ---------------------------------------------------------------------------------


def test_nothing_is_computed_past_the_last_attention_wanted():
    backbone = tiny("llava_onevision")
    memory, _ = filled(backbone)
    layers = list(backbone.decoder.layers)
    ran, stop = counting(layers)
    fed, stop_fed = counting([layer.mlp for layer in layers])
    try:
        DecoderObserver(backbone, memory).attention({3: [Guidance(LOCAL)], 1: [Guidance(OTHER)]})
    finally:
        stop()
        stop_fed()
    assert ran == [0, 1, 2, 3]
    assert fed == [0, 1, 2]


def test_a_text_rides_on_a_longer_one_and_leaves_when_no_longer_wanted():
    backbone = tiny("llava_onevision")
    memory, _ = filled(backbone)
    widths = []
    handles = [
        layer.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
        for layer in backbone.decoder.layers
    ]
    try:
        local, mixed, other = (Guidance(text) for text in (LOCAL, MIXED, OTHER))
        DecoderObserver(backbone, memory).attention({0: [local], 2: [mixed, local], 5: [other]})
    finally:
        for handle in handles:
            handle.remove()
    long, short = (backbone.encode(text).shape[1] for text in (MIXED, OTHER))
    assert widths == [long + short] * 3 + [short] * 3


class Spy(Callback):
    """Counts decoder layers that run while the memory is compressed."""

    def __init__(self, ran: list[int]) -> None:
        self.ran, self.compressing = ran, []

    def on_compress_start(self, session):
        self.ran.clear()

    def on_compress_end(self, session, changed):
        self.compressing.append(list(self.ran))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_scored_under_budget(family, monkeypatch):
    backbone = tiny(family)
    ran, stop = counting(list(backbone.decoder.layers))
    spy, masses, real = Spy(ran), [], Kernels.attention_mass
    # A first session checks the model, for which attention is observed once.
    session = StreamSession(backbone, Hermes(budget=75), chunk_frames=4, callbacks=[spy])
    monkeypatch.setattr(Kernels, "attention_mass", lambda *a, **k: masses.append(1) or real(*a, **k))
    try:
        session.feed(frames(24))
    finally:
        stop()
    over = [i for i, length in enumerate(spy.compressing) if length]
    assert spy.compressing[0] == []
    assert over, "the stream went over budget"
    assert set(over) == set(range(over[0], 6))
    # One pass of every layer a step; the layers of working and long-term memory are observed, once each.
    assert all(spy.compressing[i] == list(range(10)) for i in over)
    assert len(masses) == len(over) * 9


def test_tiers_without_attention_run_no_decoder():
    backbone = tiny("llava_onevision")
    ran, stop = counting(list(backbone.decoder.layers))
    spy = Spy(ran)
    policy = Hermes(budget=40)
    for tier in policy.tiers.values():
        tier.scorer = policy.tiers["sensory"].scorer
    try:
        StreamSession(backbone, policy, chunk_frames=4, callbacks=[spy]).feed(frames(16))
    finally:
        stop()
    assert spy.compressing == [[]] * 4


def test_the_sensory_tier_asks_for_no_attention():
    backbone, asked = tiny("llava_onevision"), []

    class Asked(DecoderObserver):
        def attention(self, requests):
            asked.append(requests)
            return super().attention(requests)

    session = StreamSession(backbone, Hermes(budget=40), chunk_frames=4)
    session.observer = Asked(backbone, session.memory)
    session.feed(frames(8))
    tiers = session.policy.boundaries(10)
    assert asked
    for requests in asked:
        assert set(requests) == {*tiers["working"], *tiers["long_term"]}
        assert {g.text for i in tiers["working"] for g in requests[i]} == {
            session.policy.prompts.render("mixed")
        }
        assert {g.text for i in tiers["long_term"] for g in requests[i]} == {
            session.policy.prompts.render("global")
        }


def test_an_exception_while_observing_leaves_model_and_memory():
    backbone = tiny("llava_onevision")
    memory, _ = filled(backbone, ragged=1)
    before = cloned(memory)
    handle = backbone.decoder.layers[4].register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            DecoderObserver(backbone, memory).attention({6: [Guidance(LOCAL)]})
    finally:
        handle.remove()
    assert identical(memory, before)
    assert backbone.text_config._attn_implementation == "sdpa"


# -- probes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_output_is_bit_identical_with_a_probe(family):
    backbone = tiny(family)
    memory, _ = filled(backbone, ragged=2)
    chunk = noise_chunk(backbone, 9, 5)
    probe = AttentionMass(only=[1, 4])
    plain = prefill(backbone, memory.fork(), chunk)
    watched = prefill(backbone, memory.fork(), chunk, probe=probe)
    assert torch.equal(plain, watched)
    assert set(probe.result()) == {1, 4}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("per_head", [False, True])
def test_attention_mass_is_the_dense_reference(family, per_head):
    backbone = tiny(family)
    memory, dense = filled(backbone, ragged=1, mix="summary")
    chunk = noise_chunk(backbone, 9, 5)
    probe = AttentionMass(per_head=per_head)
    prefill(backbone, memory.fork(), chunk, probe=probe)
    _, weights = dense.run(
        chunk.embeds[0], chunk.positions, deepstack=[level[0] for level in chunk.deepstack]
    )
    assert list(probe.result()) == list(range(backbone.num_layers))
    for layer, mass in probe.result().items():
        expected = weights[layer].mean(1)[:, : memory.lengths[layer]]
        expected = (
            expected.unflatten(0, (backbone.num_kv_heads, -1)).mean(1) if per_head else expected.mean(0)[None]
        )
        close("observed", mass[0], expected)


def test_attention_mass_averages_queries_while_the_memory_stays():
    backbone = tiny("llava_onevision")
    memory, _ = filled(backbone)
    probe, sums = AttentionMass(only=[2]), []
    for seed, length in ((5, 4), (6, 2)):
        alone = AttentionMass(only=[2])
        prefill(backbone, memory.fork(), noise_chunk(backbone, length, seed), probe=alone)
        prefill(backbone, memory.fork(), noise_chunk(backbone, length, seed), probe=probe)
        sums.append(alone.result()[2])
    close("observed", probe.result()[2], (4 * sums[0] + 2 * sums[1]) / 6)
    memory.apply({2: memory[2].keeping(torch.arange(9))})
    prefill(backbone, memory.fork(), noise_chunk(backbone, 4, 7), probe=probe)
    assert probe.result()[2].shape == (1, 1, memory[2].length)
    assert float(probe.result()[2].sum()) < 1


@dataclass
class FrameAttention(AttentionProbe):
    """How much attention each frame gets in the last layers, as a user would write it."""

    deepest: int = 2
    seen: dict[int, torch.Tensor] = field(default_factory=dict, init=False)

    def layers(self, num_layers):
        return range(num_layers - self.deepest, num_layers)

    def observe(self, view):
        if view.index in self.seen:
            return
        frame = view.layer.origin.frame[0, 0]
        mass = view.mass()[0, 0]
        self.seen[view.index] = torch.zeros(int(frame.max()) + 1).index_add(
            0, frame.clamp(min=0), mass * (frame >= 0)
        )

    def result(self):
        return torch.stack(list(self.seen.values())).mean(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_users_own_probe_watches_a_question(family):
    backbone = tiny(family)
    session = StreamSession(backbone, Fifo(budget=60), chunk_frames=4)
    session.feed(frames(12))
    answers = [session.ask("Who is in the room?", max_new_tokens=3).ids.tolist()]
    probe = FrameAttention()
    answers.append(session.ask("Who is in the room?", probe=probe, max_new_tokens=3).ids.tolist())
    assert answers[0] == answers[1]
    # The same question, seen by the tested observer, frame by frame.
    text = Guidance(backbone.question_text("Who is in the room?"), control=True)
    observed = DecoderObserver(backbone, session.memory).attention({8: [text], 9: [text]})
    expected = torch.zeros_like(probe.result())
    for layer in (8, 9):
        video = session.memory[layer].video.frame[0, 0]
        for slot, number in enumerate(video.tolist()):
            expected[number] += observed[layer, text][0, 0, slot] / 2
    close("observed", probe.result(), expected)


@pytest.mark.parametrize("layout", ["stream", "native"])
def test_a_probe_watches_all_of_what_is_asked(layout):
    """Also the image newline that a native layout puts before the question."""
    backbone = load_backbone(BackboneConfig(family="tiny_llava_onevision", layout=layout))
    calls = []

    class Look(AttentionProbe):
        def layers(self, num_layers):
            return [3]

        def observe(self, view):
            calls.append((view.layer.length, view.query.shape[2], view.own.shape[2]))

    session = StreamSession(backbone, Full(), chunk_frames=4)
    session.feed(frames(4))
    held = session.memory.lengths[3]
    session.ask("Who is in the room?", probe=Look(), max_new_tokens=2)
    q = backbone.encode(backbone.question_text("Who is in the room?")).shape[1]
    newline = layout == "native"
    answered = [(held + newline, q, q), (held + newline, 1, q + 1)]
    assert calls == [*[(held, 1, 1)] * newline, *answered]


def test_probes_are_chosen_by_setting():
    config = run_config(["probe=attention_mass", "probe.only=[0, 2]", "policy=fifo", "policy.budget=40"])
    assert config.probe == AttentionMass(only=[0, 2])
    session = open_session(
        tiny("llava_onevision"), "fifo", 40, overrides=["probe=attention_mass", "probe.only=[1]"]
    )
    session.feed(frames(16))
    assert set(session.probe.result()) == {1}


def test_a_view_shows_queries_in_the_frame_of_the_keys():
    backbone = tiny("qwen3_vl")
    memory, _ = filled(backbone, ragged=2)
    views = []

    class Look(AttentionProbe):
        def observe(self, view):
            assert view.memory.shape[2] == view.layer.length == memory.lengths[view.index]
            views.append(view)

    prefill(backbone, memory.fork(), noise_chunk(backbone, 6, 5), probe=Look())
    assert [view.index for view in views] == list(range(backbone.num_layers))
    for view in views:
        assert view.own.shape[2] == view.query.shape[2] == 6
        expected = eager_mass(view.query, view.memory, view.own, view.scaling, True)
        close("mass", view.mass(), expected.mean(1, keepdim=True))


def test_a_session_without_attention_policy_is_the_same_with_a_probe():
    states = []
    for probe in (None, AttentionMass()):
        session = StreamSession(tiny("llava_onevision"), Random(budget=40), chunk_frames=4, probe=probe)
        session.feed(frames(12))
        states.append(cloned(session.memory))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
