"""What probes and policies see of attention, against the model's own eager weights and a dense reference."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from backbones.tiny import TinyLlavaOnevision, TinyQwen2_5VL
from hermes import AttentionMass, AttentionProbe, open_session
from hermes.backbone import BackboneConfig
from hermes.kernels import Kernels
from hermes.loading import load_backbone
from hermes.observe import Guidance, Observer
from hermes.session import Callback, StreamSession
from hermes.settings import run_config
from hermes.video import Frame
from policies.fifo import Fifo
from policies.full import Full
from policies.hermes import Hermes
from policies.random import Random
from tests.references import (
    FAMILIES,
    DenseDecoder,
    cloned,
    counting,
    eager_mass,
    identical,
    new_memory,
    noise_chunk,
    prefill,
    tiny,
)
from tests.test_memory import random_update
from tests.tolerances import close

pytestmark = pytest.mark.model

LOCAL, OTHER = "What is the person doing now?", "Who is in the room?"
MIXED = LOCAL + " What happened before that?"


def frames(count: int, seed: int = 0) -> list[Frame]:
    images = np.random.default_rng(seed).integers(0, 256, (count, 84, 84, 3), dtype=np.uint8)
    return [Frame(image, i / 2, i) for i, image in enumerate(images)]


def filled(backbone, *, ragged: int = 0, mix: str = "none", batch: int = 1):
    """A memory and the dense reference of the same: a prefix and two chunks, ragged with so many rows."""
    rng, memory, dense = random.Random(1), new_memory(backbone), DenseDecoder(backbone)
    for seed, length in ((0, 5), (1, 20), (2, 12)):
        chunk = noise_chunk(backbone, length, seed, first_id=100 * seed, text=seed == 0, batch=batch)
        prefill(backbone, memory, chunk, prefix=seed == 0)
        ids = chunk.tokens.id.tolist()
        dense.run(chunk.embeds[0], chunk.positions, ids, [level[0] for level in chunk.deepstack])
        dense.memory.prefix = memory.prefix
        if ragged and seed:
            updates = {layer.index: random_update(rng, layer, heads=ragged, mix=mix) for layer in memory}
            memory.apply(updates, compact=seed == 2)
            dense.memory.apply(updates, seed == 2)
    return memory, dense


def reference(dense: DenseDecoder, backbone, layer: int, guidance: Guidance) -> torch.Tensor:
    """Attention ``[Hq, V]`` of a text to one layer's video tokens, mean over its tokens."""
    embeds = backbone.embed(backbone.encode(guidance.text))[0]
    steps = torch.arange(len(embeds)).expand(backbone.axes, -1)
    if guidance.mode == "exact":
        weights = dense.run(embeds, steps)[1][layer]
    else:
        query, key, _ = dense.project(layer, embeds)
        weights = dense.attention(layer, query, key, steps, causal=False)
    return weights.mean(1)[:, dense.memory.prefix : -len(embeds)]


def eager_attentions(backbone, chunks, text: str, kept=None):
    """Attention ``[Hq, n, T]`` of a text to the chunks before it, per layer, by transformers' eager forward.

    One pass of everything; the first chunk is text. The text sees the columns ``kept`` of each layer.
    """
    embeds = backbone.embed(backbone.encode(text))
    n, first, held = embeds.shape[1], len(chunks[0]), sum(map(len, chunks))
    embeds = torch.cat([*(chunk.embeds for chunk in chunks), embeds], dim=1)
    clocks = np.cumsum([0, *(chunk.advance for chunk in chunks)])
    relative = [chunk.positions for chunk in chunks] + [torch.arange(n).expand(backbone.axes, -1)]
    positions = torch.cat([p + int(c) for p, c in zip(relative, clocks, strict=True)], dim=1)
    extra = {}
    if chunks[1].deepstack:
        seen = torch.arange(held + n)[None]
        extra["visual_pos_masks"] = (seen >= first) & (seen < held)
        extra["deepstack_visual_embeds"] = [
            torch.cat([chunk.deepstack[level][0] for chunk in chunks[1:]]) for level in range(2)
        ]

    def hide(index):
        gone = sorted(set(range(held)) - set(kept[index]))

        def hook(module, args, kwargs):
            mask = kwargs["attention_mask"].clone()
            mask[:, :, held:, gone] = torch.finfo(mask.dtype).min
            return args, {**kwargs, "attention_mask": mask}

        return hook

    handles = [
        block.self_attn.register_forward_pre_hook(hide(index), with_kwargs=True)
        for index, block in enumerate(backbone.decoder.layers if kept is not None else ())
    ]
    backbone.model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad():
            out = backbone.decoder(
                inputs_embeds=embeds,
                position_ids=positions if backbone.axes == 1 else positions[:, None],
                output_attentions=True,
                use_cache=False,
                **extra,
            )
    finally:
        backbone.model.set_attn_implementation({"text_config": "sdpa"})
        for handle in handles:
            handle.remove()
    return [weights[0, :, -n:, :held] for weights in out.attentions]


# -- the observer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_attention_is_the_models_own(family):
    """On a full cache, against transformers' eager attention in one forward pass of everything."""
    backbone = tiny(family)
    chunks = [noise_chunk(backbone, n, seed, text=seed == 0) for seed, n in ((0, 5), (1, 20), (2, 12))]
    memory = new_memory(backbone)
    for chunk in chunks:
        prefill(backbone, memory, chunk, prefix=chunk is chunks[0])
    eager = eager_attentions(backbone, chunks, LOCAL)
    guidance = Guidance(LOCAL)
    seen = Observer(backbone, memory).attention({layer: [guidance] for layer in range(backbone.num_layers)})
    for layer in range(backbone.num_layers):
        close("observed", seen[layer, guidance][0, 0], eager[layer][..., 5:].mean(dim=(0, 1)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["exact", "embedding"])
@pytest.mark.parametrize(
    ("ragged", "mix"), [(0, "none"), (1, "summary"), (2, "none")], ids=["full", "layers", "heads"]
)
def test_observed_attention_is_the_dense_reference(family, mode, ragged, mix):
    backbone = tiny(family)
    memory, dense = filled(backbone, ragged=ragged, mix=mix)
    layers = (0, 3, 7, 9)
    before = cloned(memory)
    wanted = {layer: [Guidance(LOCAL, mode), Guidance(OTHER, mode, per_head=True)] for layer in layers}
    seen = Observer(backbone, memory).attention(wanted)
    assert seen.keys() == {(layer, guidance) for layer in layers for guidance in wanted[layer]}
    assert identical(memory, before)
    for (layer, guidance), mass in seen.items():
        expected = reference(dense, backbone, layer, guidance)
        by_head = guidance.per_head or ragged == 2
        expected = (
            expected.unflatten(0, (backbone.num_kv_heads, -1)).mean(1) if by_head else expected.mean(0)[None]
        )
        close("observed", mass[0], expected)


@pytest.mark.parametrize("mode", ["exact", "embedding"])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
def test_all_at_once_is_one_at_a_time(family, mode):
    backbone = tiny(family)
    memory, _ = filled(backbone, ragged=1)
    local, mixed, other = (Guidance(text, mode) for text in (LOCAL, MIXED, OTHER))
    assert torch.equal(backbone.encode(MIXED)[:, : backbone.encode(LOCAL).shape[1]], backbone.encode(LOCAL))
    wanted = {0: [local], 1: [mixed, local], 4: [mixed], 5: [other], 8: [other, local, other]}
    together = Observer(backbone, memory).attention(wanted)
    assert len(together) == 7
    for layer, guidance in together:
        alone = Observer(backbone, memory).attention({layer: [guidance]})[layer, guidance]
        close("observed", together[layer, guidance], alone)


def test_two_streams_are_observed_as_each_alone():
    backbone = tiny("qwen2_5_vl")
    memory, _ = filled(backbone, batch=2)
    for mode in ("exact", "embedding"):
        guidance = Guidance(LOCAL, mode)
        both = Observer(backbone, memory).attention({6: [guidance]})[6, guidance]
        for stream in range(2):
            one = new_memory(backbone)
            for seed, length in ((0, 5), (1, 20), (2, 12)):
                chunk = noise_chunk(backbone, length, seed, text=seed == 0, batch=2)
                alone = type(chunk)(chunk.embeds[stream : stream + 1], *list(vars(chunk).values())[1:])
                prefill(backbone, one, alone, prefix=seed == 0)
            close(
                "observed",
                both[stream : stream + 1],
                Observer(backbone, one).attention({6: [guidance]})[6, guidance],
            )


def test_half_precision_weights_are_rounded_ones():
    backbone = tiny("qwen2_5_vl")
    memory, dense = filled(backbone)
    guidance = Guidance(LOCAL, "embedding", half=True)
    mass = Observer(backbone, memory).attention({5: [guidance]})[5, guidance]
    exact = reference(dense, backbone, 5, guidance).mean(0)
    close("half_mass", mass[0, 0], exact)
    assert not torch.equal(
        mass,
        Observer(backbone, memory).attention({5: [Guidance(LOCAL, "embedding")]})[
            5, Guidance(LOCAL, "embedding")
        ],
    )


@pytest.mark.parametrize("mode", ["exact", "embedding"])
@pytest.mark.parametrize("family", [TinyLlavaOnevision, TinyQwen2_5VL])
def test_scaled_rotary_embeddings_are_observed_as_they_are(family, mode):
    """YaRN also scales the logits, by the square of its attention factor."""
    rope = {
        "rope_theta": 1e6,
        **family.text.get("rope_parameters", {}),
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
    }
    backbone = type("Yarn", (family,), {"text": {**family.text, "rope_parameters": rope}}).load(
        BackboneConfig()
    )
    assert backbone.decoder.rotary_emb.attention_scaling > 1.1
    memory = new_memory(backbone)
    chunks = [noise_chunk(backbone, n, seed, text=seed == 0) for seed, n in ((0, 5), (1, 30))]
    for chunk in chunks:
        prefill(backbone, memory, chunk, prefix=chunk is chunks[0])
    memory.apply({i: memory[i].keeping(torch.arange(20)) for i in range(5)}, compact=True)
    guidance, layer = Guidance(LOCAL, mode), 0
    mass = Observer(backbone, memory).attention({layer: [guidance]})[layer, guidance]
    # The first layer's input is the same for both modes; only the mask differs.
    hidden = backbone.embed(backbone.encode(LOCAL))
    query, key = backbone.project(layer, hidden)
    n = hidden.shape[1]
    positions = (memory[layer].clock + torch.arange(n)).float()
    cos, sin = backbone.decoder.rotary_emb(
        hidden, positions if backbone.axes == 1 else positions.expand(3, 1, -1)
    )

    def turned(x):
        a, b = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat((-b, a), dim=-1) * sin[:, None]

    held = memory[layer].keys
    expected = eager_mass(turned(query), held, turned(key), query.shape[-1] ** -0.5, causal=mode == "exact")
    close("observed", mass[0, 0], expected[0].mean(0)[5:])


# -- what is not computed ---------------------------------------------------------------------------------


def test_nothing_is_computed_past_the_last_attention_wanted():
    backbone = tiny("llava_onevision")
    memory, _ = filled(backbone)
    layers = list(backbone.decoder.layers)
    ran, stop = counting(layers)
    fed, stop_fed = counting([layer.mlp for layer in layers])
    try:
        Observer(backbone, memory).attention({3: [Guidance(LOCAL)], 1: [Guidance(OTHER)]})
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
        Observer(backbone, memory).attention({0: [local], 2: [mixed, local], 5: [other]})
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

    class Asked(Observer):
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
            Observer(backbone, memory).attention({6: [Guidance(LOCAL)]})
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
        if view.layer in self.seen:
            return
        frame = view.held.held.frame[0, 0]
        mass = view.mass()[0, 0]
        self.seen[view.layer] = torch.zeros(int(frame.max()) + 1).index_add(
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
    text = Guidance(backbone.question_text("Who is in the room?"))
    observed = Observer(backbone, session.memory).attention({8: [text], 9: [text]})
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
            calls.append((view.held.length, view.query.shape[2], view.own.shape[2]))

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
            assert view.memory.shape[2] == view.held.length == memory.lengths[view.layer]
            views.append(view)

    prefill(backbone, memory.fork(), noise_chunk(backbone, 6, 5), probe=Look())
    assert [view.layer for view in views] == list(range(backbone.num_layers))
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
