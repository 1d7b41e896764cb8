"""`model.generate(..., past_key_values=session.memory.fork())`, as users of transformers write it."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from hermes.attention import lending
from hermes.decoding.generation import GenerationConfig
from hermes.errors import HermesError, InputError
from hermes.policies.fifo import Fifo
from hermes.policies.full import Full
from hermes.session.session import StreamSession
from hermes.testing.trial import copy_state, fingerprint
from tests.support.families import QUESTION, each_family, make_frames, tiny

pytestmark = pytest.mark.model

GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}


def streamed(family: str, layout: str = "stream", policy: Any = None, frames: int = 12) -> StreamSession:
    session = StreamSession(
        tiny(family, layout),
        Fifo(budget=40) if policy is None else policy,
        chunk_frames=4,
        generation=GenerationConfig(max_new_tokens=8, repetition_penalty=1),
    )
    session.feed(make_frames(frames))
    session.flush()
    return session


def inputs_of(session: StreamSession, question: str = QUESTION) -> Any:
    backbone = session.backbone
    return backbone.tokenizer(backbone.question_text(question), return_tensors="pt")


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in (*a, *b))


@each_family
def test_generate_answers_as_ask_does(family: str) -> None:
    session = streamed(family)
    model, inputs = session.backbone.model, inputs_of(session)
    length, before, found = inputs.input_ids.shape[1], copy_state(session.memory), fingerprint(model)
    expected = session.ask(QUESTION).ids.tolist()
    told = model.generate(**inputs, past_key_values=session.memory.fork(), **GREEDY)
    assert told[0, length:].tolist() == expected
    # Without a mask, and with one that counts what the cache says it holds.
    ids, fork = inputs.input_ids, session.memory.fork()
    mask = torch.ones(1, fork.get_seq_length() + length, dtype=torch.long)
    assert torch.equal(told, model.generate(ids, past_key_values=session.memory.fork(), **GREEDY))
    assert torch.equal(told, model.generate(ids, attention_mask=mask, past_key_values=fork, **GREEDY))
    assert same(before, copy_state(session.memory))
    del fork
    gc.collect()
    assert fingerprint(model) == found


def test_beams_samples_streamers_and_several_questions() -> None:
    session = streamed("qwen2_5_vl")
    model, inputs = session.backbone.model, inputs_of(session)
    length = inputs.input_ids.shape[1]

    def told(**options: Any) -> list[Any]:
        given = {**inputs, **GREEDY, **options}
        out: torch.Tensor = model.generate(**given, past_key_values=session.memory.fork())
        return out[:, given["input_ids"].shape[1] :].tolist()

    assert told(num_beams=3)[0] == session.ask(QUESTION, num_beams=3).ids.tolist()
    torch.manual_seed(0)
    samples = told(do_sample=True, temperature=5.0, num_return_sequences=4)
    assert len({str(sample) for sample in samples}) > 1

    heard: list[int] = []

    class Heard(BaseStreamer):  # type: ignore[misc]
        def put(self, value: torch.Tensor) -> None:
            heard.extend(value.flatten().tolist())

        def end(self) -> None:
            pass

    assert told(streamer=Heard())[0] == heard[length:]

    questions = [QUESTION, "Where?"]
    texts = [session.backbone.question_text(question) for question in questions]
    padded = session.backbone.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    assert not padded.attention_mask.all()
    both = told(**padded)
    for question, answer in zip(questions, both, strict=True):
        expected = session.ask(question).ids.tolist()
        assert answer[: len(expected)] == expected


@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
def test_a_block_serves_every_call_and_the_native_layout(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = streamed(family, "native", Full(), frames=6)
    session.feed(make_frames(3)[2].image)
    model, inputs = session.backbone.model, inputs_of(session)
    if hasattr(model.model, "rope_deltas"):
        # As a call with a video of its own leaves them.
        monkeypatch.setattr(model.model, "rope_deltas", torch.tensor([[-40]]))
    found, expected = fingerprint(model), session.ask(QUESTION)
    with session.reading() as memory, torch.no_grad():
        logits = model(**inputs, past_key_values=memory, logits_to_keep=1).logits[0, -1]
        told = [int(logits.argmax())]
        while len(told) < len(expected.ids):
            step = torch.tensor([[told[-1]]])
            told.append(int(model(input_ids=step, past_key_values=memory).logits[0, -1].argmax()))
    assert told == expected.ids.tolist()
    assert fingerprint(model) == found


def test_what_cannot_be_read_says_how_it_can() -> None:
    session = streamed("llava_onevision")
    model, inputs = session.backbone.model, inputs_of(session)
    before = copy_state(session.memory)
    with pytest.raises(HermesError, match=r"session\.memory\.fork\(\)"):
        model.generate(**inputs, past_key_values=session.memory, **GREEDY)
    with pytest.raises(HermesError, match=r"with session\.reading\(\) as memory"):
        model(**inputs, past_key_values=session.memory.fork())
    assert same(before, copy_state(session.memory))
    two = session.memory.fork()
    two.batch_repeat_interleave(2)
    three = {name: given.repeat(3, 1) for name, given in inputs.items()}
    with pytest.raises(InputError, match="3 texts for a memory of 2 streams"):
        model.generate(**three, past_key_values=two, **GREEDY)


def test_the_model_is_as_found_after_an_error_within_a_call() -> None:
    session = streamed("llava_onevision")
    model, inputs = session.backbone.model, inputs_of(session)
    found = fingerprint(model)
    kept = session.memory.fork()

    def fail(*args: Any) -> None:
        assert model.config.text_config._attn_implementation == "hermes_memory"
        raise KeyError("within")

    handle = session.backbone.decoder.layers[2].register_forward_hook(fail)  # type: ignore[index,operator]
    with pytest.raises(KeyError):
        model.generate(**inputs, past_key_values=kept, **GREEDY)
    handle.remove()
    assert fingerprint(model) == found


def test_a_wrapped_forward_of_somebody_elses_comes_back() -> None:
    session = streamed("llava_onevision")
    decoder: Any = session.backbone.decoder
    plain = decoder.forward
    calls: list[int] = []

    def counted(*args: Any, **given: Any) -> Any:
        calls.append(1)
        return plain(*args, **given)

    decoder.forward = counted
    try:
        first, second = session.memory.fork(), session.memory.fork()
        with lending(session.backbone.model, first), lending(session.backbone.model, second):
            session.backbone.model.generate(**inputs_of(session), past_key_values=second, **GREEDY)
        assert decoder.forward is counted
        assert len(calls) == 8
    finally:
        del decoder.forward
