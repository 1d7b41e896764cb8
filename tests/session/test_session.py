"""What a session promises when things go wrong: nothing written twice, nothing lost, nothing silent."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SuppressTokensLogitsProcessor, TextIteratorStreamer

from hermes.attention import reading
from hermes.backbone import BackboneConfig, load_backbone
from hermes.decoding.generation import GenerationConfig
from hermes.errors import HermesError, InputError, SettingError
from hermes.memory import LayerUpdate
from hermes.parts import RandomScore
from hermes.policies.full import Full
from hermes.policies.hermes import Hermes
from hermes.policies.random import Random
from hermes.policies.recent import Recent
from hermes.policy import Tier
from hermes.session.session import Callback, StreamSession
from hermes.video import Frame

pytestmark = pytest.mark.model
SHORT = GenerationConfig(max_new_tokens=4)


def frames(first: int, count: int) -> list[Frame]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (first + count, 42, 42, 3), np.uint8)
    return [Frame(images[i], float(i), i) for i in range(first, first + count)]


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(BackboneConfig(family="tiny_llava_onevision"))


def session(backbone, policy=None, **options) -> StreamSession:
    return StreamSession(
        backbone, policy or Hermes(budget=20), chunk_frames=4, fps=1, generation=SHORT, **options
    )


class Interrupt(Callback):
    def __init__(self, event: str) -> None:
        self.event = event

    def on_encode_end(self, session, chunk) -> None:
        self.strike("on_encode_end")

    def on_encode_start(self, session, frames) -> None:
        self.strike("on_encode_start")

    def on_compress_start(self, session) -> None:
        self.strike("on_compress_start")

    def strike(self, event: str) -> None:
        if event == self.event:
            self.event = ""
            raise KeyboardInterrupt


@pytest.mark.parametrize("event", ["on_encode_start", "on_encode_end", "on_compress_start"])
def test_an_interrupt_neither_loses_nor_repeats_a_frame(backbone, event: str) -> None:
    plain = session(backbone, Full())
    plain.feed(frames(0, 12))
    stream = session(backbone, Full(), callbacks=[Interrupt(event)])
    with pytest.raises(KeyboardInterrupt):
        stream.feed(frames(0, 4))
    stream.feed(frames(4, 8))
    stream.flush()
    assert stream.frames_seen == 12
    assert torch.equal(stream.memory[0].origin.id, plain.memory[0].origin.id)


def test_a_frame_that_cannot_be_encoded_does_not_poison_the_stream(backbone) -> None:
    stream = session(backbone)
    other = Frame(np.zeros((8, 8, 3), np.uint8), 3.0, 3)
    with pytest.raises(InputError):
        stream.feed([*frames(0, 3), other])
    stream.feed(frames(4, 4))
    assert stream.frames_seen == 4
    assert stream.ask("What now?").frames_seen == 4


def test_frames_are_offered_to_the_policy_once(backbone, monkeypatch) -> None:
    """Also where encoding fails and is tried again, with more frames by then."""
    offered: list[int] = []

    class Odd(Hermes):
        def admit(self, given):
            offered.extend(frame.index for frame in given)
            return [frame for frame in given if frame.index % 2]

    stream = session(backbone, Odd(budget=200))
    stream.feed(frames(0, 3))
    with monkeypatch.context() as patch:
        patch.setattr(
            type(stream.backbone), "video", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("full"))
        )
        with pytest.raises(RuntimeError, match="full"):
            stream.flush()
    stream.feed(frames(3, 9))
    stream.flush()
    assert offered == list(range(12))
    assert set(stream.memory[0].video.frame.flatten().tolist()) == set(range(1, 12, 2))
    assert stream.frames_seen == 12


REDRAWN = Random(budget=30, tiers={"all": Tier(share=1.0, scorer=RandomScore(redraw=True))})


@pytest.mark.parametrize(
    "policy", [Hermes(budget=20), Recent(frames=3), REDRAWN], ids=lambda p: type(p).__name__
)
def test_resume_goes_on_as_if_nothing_had_happened(backbone, policy, tmp_path: Path) -> None:
    whole = session(backbone, policy)
    whole.feed(frames(0, 8))
    whole.ask("What now?")
    whole.save(tmp_path)
    later = session(backbone, replace(policy))
    later.resume(tmp_path)
    for stream in (whole, later):
        stream.feed(frames(8, 8))
    for ours, theirs in zip(later.memory.state(), whole.memory.state(), strict=True):
        assert torch.equal(ours, theirs)
    assert later.ask("And now?").ids.tolist() == whole.ask("And now?").ids.tolist()
    assert (later.frames_seen, later.now) == (16, 16.0)
    with pytest.raises(InputError, match="no saved memory"):
        later.resume(tmp_path / "nothing")


def test_two_threads_on_one_model_answer_as_one(backbone) -> None:
    streams = [session(backbone, Hermes(budget=20 + 9 * i)) for i in range(2)]
    for stream in streams:
        stream.feed(frames(0, 12))
    alone = [stream.ask("What now?").ids.tolist() for stream in streams]
    for stream in streams:
        stream.context.history.clear()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            found = list(pool.map(lambda stream: stream.ask("What now?").ids.tolist(), streams))
            assert found == alone
    assert backbone.text_config._attn_implementation == "sdpa"


def test_a_memory_is_not_read_without_its_attention(backbone) -> None:
    stream = session(backbone, Full())
    stream.feed(frames(0, 4))
    embeds = backbone.embed(torch.tensor([[1, 2]]))
    with pytest.raises(HermesError, match="reading"):
        backbone.decoder(inputs_embeds=embeds, past_key_values=stream.memory.fork(), use_cache=True)
    fork = stream.memory.fork()
    with reading(fork), pytest.raises(HermesError, match="memory_attention_set"):
        backbone.decoder(inputs_embeds=embeds, past_key_values=fork, use_cache=True)


@pytest.mark.parametrize("keep", [[20, 21], [*range(16), 30, 30], [*range(16), 31, 30]])
def test_an_update_that_breaks_the_rules_changes_nothing(backbone, keep: list[int]) -> None:
    memory = session(backbone, Full())
    memory.feed(frames(0, 4))
    held = memory.memory
    before = [tensor.clone() for tensor in held.state()]
    with pytest.raises(HermesError, match="layer 2"):
        held.apply({2: LayerUpdate(torch.tensor([[keep]]))})
    assert all(torch.equal(a, b) for a, b in zip(before, held.state(), strict=True))


def test_an_odd_chunk_is_refused_where_frames_go_in_pairs() -> None:
    qwen = load_backbone(BackboneConfig(family="tiny_qwen2_5_vl"))
    with pytest.raises(SettingError, match="multiple of 2"):
        StreamSession(qwen, Hermes(), chunk_frames=5)


def test_a_policy_serves_one_stream(backbone) -> None:
    policy = Hermes(budget=20)
    first, second = session(backbone, policy), session(backbone, policy)
    assert first.policy is policy
    assert second.policy is not policy
    assert second.policy == policy


@pytest.mark.parametrize(
    ("choices", "correct", "message"),
    [
        (["one"], None, "2 to 26"),
        ([str(i) for i in range(27)], None, "2 to 26"),
        (["a", "b"], "c", "none of the"),
    ],
)
def test_choices_are_checked(backbone, choices: list[str], correct: str | None, message: str) -> None:
    stream = session(backbone)
    stream.feed(frames(0, 4))
    with pytest.raises(InputError, match=message):
        stream.ask("Which?", choices, correct=correct)


def test_generate_options_work_as_users_know_them(backbone) -> None:
    stream = session(backbone)
    stream.feed(frames(0, 8))
    plain = stream.ask("What now?")
    stream.context.history.clear()
    pieces = TextIteratorStreamer(backbone.tokenizer, skip_prompt=True)
    first = backbone.decode(plain.ids[:1])
    assert stream.ask("What now?", streamer=pieces).ids.tolist() == plain.ids.tolist()
    assert "".join(pieces) == backbone.tokenizer.decode(plain.ids)
    assert stream.ask("What now?", stop_strings=[first]).ids.tolist() == plain.ids[:1].tolist()
    ban = SuppressTokensLogitsProcessor(plain.ids[:1].tolist(), device="cpu")
    assert int(stream.ask("What now?", logits_processor=[ban]).ids[0]) != int(plain.ids[0])


def test_a_session_that_is_dropped_frees_its_memory_at_once(backbone) -> None:
    """Nothing points back at it: a device's memory must not wait for the garbage collector."""
    stream = session(backbone, Full())
    stream.feed(frames(0, 4))
    stream.ask("What is happening?", max_new_tokens=2)
    held = weakref.ref(stream.memory)
    gc.disable()
    try:
        del stream
        assert held() is None
    finally:
        gc.enable()


def test_a_policy_knows_how_far_the_last_chunk_reached(backbone) -> None:
    seen = []

    class Noting(Callback):
        def on_encode_end(self, session, chunk) -> None:
            seen.append(chunk.advance)

    stream = StreamSession(backbone, Full(), chunk_frames=4, generation=SHORT, callbacks=[Noting()])
    stream.feed(frames(0, 7))
    stream.flush()
    assert seen == [4 * 9, 3 * 9]
    assert stream.context.extent == 3 * 9
