"""Sessions on decoders of several kinds of layers: questions, beams, saving, lockstep, archives, commands."""

from __future__ import annotations

import pytest
import torch

from hermes.decoding.generation import GenerationConfig
from hermes.errors import InputError
from hermes.memory import LayerSpec
from hermes.policies.archived import Archived
from hermes.policies.hermes import Hermes
from hermes.policies.rekv import Rekv
from hermes.session.lockstep import BatchedSession
from hermes.session.session import StreamSession
from tests.support.families import make_frames
from tests.support.references import cloned, identical
from tests.support.tiny_qwen3_5 import tiny_hybrid
from tests.support.tiny_windowed import tiny_windowed

pytestmark = pytest.mark.model

KINDS = {"states": tiny_hybrid, "windows": tiny_windowed}
each_kind = pytest.mark.parametrize("kind", KINDS)


def session_on(kind: str, policy=None, **options) -> StreamSession:
    generation = GenerationConfig(6, **options)
    return StreamSession(KINDS[kind](), policy or Hermes(budget=60), chunk_frames=4, generation=generation)


@each_kind
def test_a_question_leaves_the_stream_alone_whatever_decodes_it(kind):
    session, other = session_on(kind), session_on(kind, num_beams=3)
    for one in (session, other):
        one.feed(make_frames(12))
    before = cloned(session.memory)
    greedy = session.ask("What happened?").ids.tolist()
    assert identical(session.memory, before)
    beams = other.ask("What happened?").ids.tolist()
    assert identical(other.memory, before)
    assert greedy
    assert beams
    # One beam is greedy decoding.
    assert session.ask("What happened?", num_beams=1).ids.tolist() == greedy


@each_kind
def test_a_stream_goes_on_from_disk_bit_for_bit(kind, tmp_path):
    frames, session = make_frames(16), session_on(kind)
    session.feed(frames[:10])
    session.save(tmp_path / "stream")
    again = session_on(kind)
    again.resume(tmp_path / "stream")
    assert identical(again.memory, cloned(session.memory))
    for one in (session, again):
        one.feed(frames[10:])
    assert identical(again.memory, cloned(session.memory))
    assert again.ask("Who?").ids.tolist() == session.ask("Who?").ids.tolist()


def test_a_stream_of_other_layers_is_refused(tmp_path, monkeypatch):
    session = session_on("states")
    session.feed(make_frames(4))
    session.save(tmp_path / "stream")
    other = session_on("states")
    specs = (LayerSpec("managed"), *[LayerSpec("recurrent")] * 6, LayerSpec("managed"))
    monkeypatch.setitem(vars(other.backbone), "layer_specs", specs)
    with pytest.raises(InputError, match="1 managed, 6 recurrent, 1 managed"):
        other.resume(tmp_path / "stream")


@each_kind
def test_streams_in_lockstep_are_those_alone(kind):
    frames = [make_frames(12, height=72), make_frames(12, height=72)]
    frames[1] = [type(frame)(255 - frame.image, frame.time, frame.index) for frame in frames[1]]
    together = BatchedSession(
        KINDS[kind](), Hermes(budget=60), 2, chunk_frames=4, generation=GenerationConfig(6)
    )
    together.feed(frames)
    answers = together.ask("What happened?")
    for own, answer in zip(frames, answers, strict=True):
        alone = session_on(kind)
        alone.feed(own)
        assert answer.ids.tolist() == alone.ask("What happened?").ids.tolist()


@each_kind
@pytest.mark.parametrize("policy", [Rekv, Archived])
def test_recalled_tokens_go_into_managed_layers_alone(kind, policy):
    session = session_on(kind, policy(budget=60))
    session.feed(make_frames(24))
    before = cloned(session.memory)
    answer = session.ask("What happened first?")
    assert identical(session.memory, before)
    assert len(answer.read_per_layer) == len(session.memory) == 2


@each_kind
def test_every_layers_queries_are_those_of_a_true_forward(kind):
    from hermes.decoding.observer import DecoderObserver

    session = session_on(kind)
    session.feed(make_frames(8))
    before = cloned(session.memory)
    found = DecoderObserver(session.backbone, session.memory).queries("Who is there?")
    assert identical(session.memory, before)
    heads = session.backbone.text_config.num_attention_heads
    assert [query.shape[1] for query in found] == [heads] * 2
    assert all(bool(torch.isfinite(query).all()) for query in found)


@each_kind
def test_stock_generate_reads_a_fork(kind):
    session = session_on(kind, repetition_penalty=1.0)
    session.feed(make_frames(8))
    before, backbone = cloned(session.memory), session.backbone
    ids = backbone.question_ids("Who?")
    out = backbone.model.generate(
        input_ids=ids, past_key_values=session.memory.fork(), max_new_tokens=6, do_sample=False
    )
    assert out[0, ids.shape[1] :].tolist() == session.ask("Who?").ids.tolist()
    assert identical(session.memory, before)
