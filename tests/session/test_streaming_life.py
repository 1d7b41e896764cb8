"""Callbacks, recall, history and the life of a session."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from hermes import open_session
from hermes.attention import memory_attention_set
from hermes.decoding.observer import DecoderObserver
from hermes.errors import InputError, SettingError
from hermes.policies.fifo import Fifo
from hermes.policies.hermes import Hermes
from hermes.policies.random import Random
from hermes.policy import Recall
from hermes.session.session import Callback
from hermes.tokens import VideoState
from hermes.video import Frame
from tests.support.references import cloned, identical, tiny
from tests.support.streaming_cases import QUESTION, Raw, family, frames, session_on
from tests.support.tolerances import close

pytestmark = pytest.mark.model


# -- callbacks, recall, history ----------------------------------------------------------------------------


@dataclass
class Log(Callback):
    events: list[str] = field(default_factory=list, init=False)

    def on_encode_start(self, session, frames):
        self.events.append(f"encode {len(frames)}")

    def on_encode_end(self, session, chunk):
        self.events.append(f"encoded {session.memory.lengths[0]}")

    def on_compress_start(self, session):
        self.events.append("compress")

    def on_compress_end(self, session, changed):
        self.events.append(f"compressed {changed} {session.memory.lengths[0]}")

    def on_ask_start(self, session, question):
        self.events.append(f"ask {question}")

    def on_ask_end(self, session, answer):
        self.events.append(f"answered {answer.question}")


def test_callbacks_are_called_in_order():
    log = Log()
    session = session_on("llava_onevision", Fifo(budget=60), callbacks=[Callback(), log])
    session.feed(frames(9))
    session.ask("Why?")
    p = session.memory.prefix
    chunk = ["encode 4", f"encoded {p + 36}", "compress", f"compressed False {p + 36}"]
    full = ["encode 4", f"encoded {p + 72}", "compress", f"compressed True {p + 60}"]
    rest = ["encode 1", f"encoded {p + 69}", "compress", f"compressed True {p + 60}"]
    assert log.events == [*chunk, *full, *rest, "ask Why?", "answered Why?"]
    log.events.clear()
    session.feed_chunk(session.backbone.video(frames(1), VideoState(next_id=500), fps=1.0))
    assert log.events == ["encode 0", *rest[1:]]


@dataclass
class Forgets(Fifo):
    """Answers from three tokens, and from what it encodes at the question."""

    budget: int = 50
    frames_at_question: list[Frame] = field(default_factory=list, init=False, compare=False)

    def recall(self, call: Recall) -> None:
        call.memory.apply(
            {layer.index: layer.keeping(torch.arange(3)) for layer in call.memory}, compact=True
        )
        call.encode(self.frames_at_question)


@family
def test_recall_changes_the_answer_and_not_the_memory(family):
    plain, forgets = (session_on(family, policy) for policy in (Fifo(budget=50), Forgets()))
    for session in (plain, forgets):
        session.feed(frames(12))
    before = cloned(forgets.memory)
    raws = [Raw() for _ in range(3)]
    plain.ask(QUESTION, processors=[raws[0]])
    forgets.ask(QUESTION, processors=[raws[1]])
    forgets.policy.frames_at_question = frames(2, seed=9)
    forgets.ask(QUESTION, processors=[raws[2]])
    assert identical(forgets.memory, before)
    assert not torch.allclose(raws[0].seen[0], raws[1].seen[0])
    assert not torch.allclose(raws[1].seen[0], raws[2].seen[0])
    # What was recalled is what a session with just that would hold.
    tail = session_on(family, Forgets())
    tail.feed(frames(12))
    tail.memory.apply({layer.index: layer.keeping(torch.arange(3)) for layer in tail.memory}, compact=True)
    tail.policy.recall = lambda call: None
    raw = Raw()
    tail.ask(QUESTION, processors=[raw])
    close("one_shot", raw.seen[0], raws[1].seen[0])


def test_the_last_round_leads_the_guidance_prompts():
    session, texts = session_on("llava_onevision", Hermes(budget=40)), []

    class Asked(DecoderObserver):
        def attention(self, requests):
            texts.append({guidance.text for wanted in requests.values() for guidance in wanted})
            return super().attention(requests)

    session.observer = Asked(session.backbone, session.memory)
    session.feed(frames(8))
    session.ask("Which colour?", ["red", "blue"])
    chosen = session.context.history[-1]
    assert chosen.answer in ("A", "B")
    session.feed(frames(4))
    last = chosen.choices["AB".index(chosen.answer)]
    prompts = session.policy.prompts
    assert texts[0] == {prompts.local_text + "; " + prompts.global_text, prompts.global_text}
    assert texts[-1] == {prompts.render("mixed", chosen), prompts.render("global", chosen)}
    assert all(f"Question: Which colour? Answer: {last}" in text for text in texts[-1])


# -- a session's life --------------------------------------------------------------------------------------


def test_two_sessions_on_one_model_share_it():
    one, two = (
        session_on("llava_onevision", Hermes(budget=40)),
        session_on("llava_onevision", Fifo(budget=30)),
    )
    alone = session_on("llava_onevision", Hermes(budget=40))
    alone.feed(frames(12))
    model = one.backbone.model
    with one:
        one.feed(frames(12)[:6])
        with two:
            two.feed(frames(8, seed=3))
            one.feed(frames(12)[6:])
            two.ask(QUESTION)
        assert model.config.get_text_config()._attn_implementation == "hermes_memory"
        one.ask(QUESTION)
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    assert identical(one.memory, cloned(alone.memory))
    one.close()
    with memory_attention_set(model):
        pass
    assert model.config.get_text_config()._attn_implementation == "sdpa"


def test_sessions_on_one_model_in_threads_of_their_own():
    def streamed(seed: int) -> tuple[list[torch.Tensor], list[int]]:
        session = session_on("llava_onevision", Hermes(budget=40))
        session.feed(frames(24, seed=seed))
        return cloned(session.memory), session.ask(QUESTION).ids.tolist()

    alone = [streamed(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(streamed, range(3)))
    for (state, ids), (expected, expected_ids) in zip(together, alone, strict=True):
        assert ids == expected_ids
        assert all(torch.equal(a, b) for a, b in zip(state, expected, strict=True))
    assert tiny("llava_onevision").text_config._attn_implementation == "sdpa"


@family
def test_a_saved_stream_is_resumed_in_another_session(family, tmp_path):
    whole, first, second = (session_on(family, Hermes(budget=40)) for _ in range(3))
    stream = frames(24)
    for session in (whole, first):
        session.feed(stream[:14])
        session.ask("Which colour?", ["red", "blue"])
    first.save(tmp_path)
    second.resume(tmp_path)
    assert identical(second.memory, cloned(first.memory))
    assert second.context.history == first.context.history
    assert (second.frames_seen, second.now) == (14, first.now)
    for session in (whole, second):
        session.feed(stream[14:])
        session.flush()
    assert identical(second.memory, cloned(whole.memory))
    assert second.ask(QUESTION).ids.tolist() == whole.ask(QUESTION).ids.tolist()
    with pytest.raises(InputError):
        session_on(family, Hermes(budget=40)).resume(tmp_path / "nowhere")
    first.memory.save(tmp_path / "memory")
    with pytest.raises(InputError, match="not a stream"):
        second.resume(tmp_path / "memory")


def test_a_policy_serves_one_stream():
    policy = Random(budget=30)
    one = session_on("llava_onevision", policy)
    two = session_on("llava_onevision", policy)
    assert one.policy is policy
    assert two.policy is not policy
    assert two.policy == policy
    assert two.policy.context is not one.policy.context


def test_leaving_the_decoders_range_is_said_once(caplog):
    session = session_on("llava_onevision")
    session.backbone.text_config.max_position_embeddings = 100
    try:
        with caplog.at_level(logging.WARNING):
            session.feed(frames(16))
    finally:
        session.backbone.text_config.max_position_embeddings = 32768
    said = [record.getMessage() for record in caplog.records]
    assert sum("positions have passed 100" in text for text in said) == 1


def test_questions_at_given_times_see_the_frames_before_them():
    session = session_on("llava_onevision", fps=2.0)
    stops = session.watch(frames(12), [4.0, 0.5, 1.25, 99.0])
    assert [(at, session.frames_seen) for at in stops] == [(0.5, 1), (1.25, 3), (4.0, 8), (99.0, 12)]


@family
def test_frames_of_a_failed_chunk_wait_for_the_next_call(family):
    session, whole = session_on(family, Random(budget=30)), session_on(family, Random(budget=30))
    whole.feed(frames(12))
    session.feed(frames(12)[:4])
    handle = session.backbone.decoder.layers[5].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.feed(frames(12)[4:8])
    handle.remove()
    assert session.frames_seen == 4
    session.flush()
    session.feed(frames(12)[8:])
    assert identical(session.memory, cloned(whole.memory))
    assert session.frames_seen == 12


def test_a_chunk_that_fails_is_not_counted():
    session = session_on("llava_onevision")
    chunk = session.backbone.video(frames(4), VideoState(next_id=100), fps=1.0)
    handle = session.backbone.decoder.layers[5].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.feed_chunk(chunk)
    handle.remove()
    assert (session.frames_seen, session.now) == (0, 0.0)
    session.feed_chunk(chunk)
    assert session.frames_seen == 4


@family
def test_frames_that_cannot_be_encoded_do_not_block_the_stream(family):
    session, whole = session_on(family), session_on(family)
    session.feed(frames(4))
    wide = Frame(np.zeros((40, 120, 3), np.uint8), 2.0, 4)
    with pytest.raises(InputError, match="one size"):
        session.feed([wide, *frames(8)[5:]])
    assert session.waiting == []
    assert session.frames_seen == 4
    session.feed(frames(12)[8:])
    whole.feed([*frames(4), *frames(12)[8:]])
    assert identical(session.memory, cloned(whole.memory))


def test_what_is_refused():
    session = session_on("llava_onevision", Fifo(budget=20))
    with pytest.raises(InputError, match="no frame"):
        session.ask(QUESTION)
    with pytest.raises(InputError, match="empty"):
        session.ask("  ")
    session.feed(frames(4))
    with pytest.raises(InputError, match="2 to 26 choices"):
        session.ask(QUESTION, ["yes"])
    for name, chunk_frames in (("llava_onevision", 0), ("qwen2_5_vl", 3), ("qwen3_vl", 1)):
        with pytest.raises(SettingError, match=r"stream\.chunk_frames"):
            session_on(name, chunk_frames=chunk_frames)
    with pytest.raises(SettingError, match=r"policy\.budget: got 8; allowed: at least 9"):
        session_on("llava_onevision", Fifo(budget=8)).feed(frames(4))
    session_on("llava_onevision", Fifo(budget=9)).feed(frames(4))
    pair = session_on("llava_onevision")
    chunk = pair.backbone.video(frames(4), VideoState(next_id=100), fps=1.0)
    pair.feed_chunk(type(chunk)(**{**vars(chunk), "embeds": chunk.embeds.expand(2, -1, -1)}))
    with pytest.raises(InputError, match="2 streams"):
        pair.ask(QUESTION)


def test_a_session_in_a_few_lines():
    with open_session(
        tiny("qwen3_vl"), "hermes", 64, overrides=["stream.chunk_frames=2", "seed=3"]
    ) as session:
        session.feed(frames(16))
        answer = session.ask("What is happening?", max_new_tokens=3)
    assert (session.chunk_frames, session.seed) == (2, 3)
    assert answer.tokens_per_layer == [session.memory.prefix + 64] * 10
    policy = Fifo(budget=99)
    assert open_session(tiny("qwen3_vl"), policy).policy is policy
    assert open_session(tiny("qwen3_vl"), policy, 40).policy == Fifo(budget=40)
    assert policy.budget == 99
