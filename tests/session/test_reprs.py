"""What an object says of itself: short, true, and harmless in a page."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import hermes
from hermes.policies.fifo import Fifo
from hermes.policies.full import Full
from hermes.policies.hermes import Hermes
from hermes.policy import MemoryPolicy
from hermes.registry import registry
from hermes.session.session import StreamSession
from hermes.video import Frame, open_source
from tests.support.families import tiny

pytestmark = pytest.mark.model
A = np.zeros((8, 42, 42, 3), np.uint8)


@pytest.fixture(scope="module")
def stream() -> StreamSession:
    made = StreamSession(tiny("llava_onevision"), Fifo(budget=40), fps=1, chunk_frames=4)
    made.feed(A)
    return made


def test_the_names_of_hermes_are_listed() -> None:
    assert dir(hermes) == hermes.__all__
    assert {"open_session", "StreamSession", "Answer"} <= set(dir(hermes))
    code = "import hermes, sys; assert 'open_source' in dir(hermes); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_short_true_reprs(stream: StreamSession) -> None:
    layer, memory = stream.memory[0], stream.memory
    assert repr(layer) == f"<KVLayer 0: {layer.length} tokens, {memory.prefix} of them the prefix>"
    assert f"{len(memory.layers)} layers, {layer.length} tokens each" in repr(memory)
    assert repr(memory) in repr(stream)
    assert "Fifo(budget=40), 8 frames in 8 s" in repr(stream)
    assert repr(Frame(A[0], 1.5, 3)) == "Frame(42x42, time=1.5, index=3)"
    assert repr(open_source(A, fps=2)) == "<StillSource 'array': 4 s, 2 frames a second>"
    assert repr(layer.origin) == f"Provenance([8, 1, 1, {layer.length}])"
    for thing in (stream, memory, layer, stream.backbone, layer.origin, stream.stats()):
        assert len(repr(thing)) < 400
        assert "tensor(" not in repr(thing)
    empty = StreamSession(tiny("llava_onevision"), Full())
    assert "0 frames in 0 s" in repr(empty)


def test_a_policy_says_what_differs_from_its_defaults() -> None:
    assert repr(Fifo()) == "Fifo()"
    assert repr(Hermes(budget=64)) == "Hermes(budget=64)"
    made = Hermes(trigger="first_layer", tiers={"all": {"share": 1, "scorer": "recency"}})
    assert "Tier(share=1.0, scorer=Recency())" in repr(made)
    assert "trigger='first_layer'" in repr(made)
    for name in registry("policy").names():
        cls = registry("policy").get(name)
        if issubclass(cls, MemoryPolicy) and name != "knockout":
            assert repr(cls()) == f"{cls.__qualname__}()"


def test_a_session_as_a_picture_in_a_page(stream: StreamSession) -> None:
    class Odd(Fifo):
        def __repr__(self) -> str:
            return "<script>alert('&')</script>"

    odd = StreamSession(stream.backbone, Odd(budget=40), fps=1, chunk_frames=4)
    odd.feed(A)
    page = odd._repr_html_()
    assert 'src="data:image/png;base64,' in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page


def test_an_answer_as_plain_values(stream: StreamSession) -> None:
    answer = stream.ask("What is happening?", ["red", "blue"], correct="red", max_new_tokens=2)
    plain = json.loads(answer.to_json())
    assert plain == json.loads(json.dumps(answer.to_dict()))
    assert plain["ids"] == answer.ids.tolist()
    assert set(plain) == set(vars(answer))
    assert plain["probabilities"].keys() == {"A", "B"}
    assert repr(answer).startswith(f"Answer({answer.answer!r}, choice={answer.choice!r}")
    answer.ttft_ms = float("nan")
    assert json.loads(answer.to_json())["ttft_ms"] is None


def test_it_is_said_once_that_nothing_was_evicted(caplog: pytest.LogCaptureFixture) -> None:
    stream = StreamSession(tiny("llava_onevision"), Fifo(budget=4000), fps=1, chunk_frames=4)
    stream.feed(A)
    tokens = stream.memory[0].video_length
    for _ in range(2):
        stream.ask("What now?", max_new_tokens=1)
    stream.reset()
    stream.feed(A)
    stream.ask("What now?", max_new_tokens=1)
    wanted = f"nothing was evicted: all {tokens} video tokens fit under the budget of 4000"
    assert [wanted in record.getMessage() for record in caplog.records] == [True]
    caplog.clear()
    for policy in (Fifo(budget=tokens - 1), Full()):
        other = StreamSession(tiny("llava_onevision"), policy, fps=1, chunk_frames=4)
        other.feed(A)
        other.ask("What now?", max_new_tokens=1)
        assert not list(other.notes)
    whole = StreamSession(tiny("llava_onevision"), Fifo(budget=tokens), fps=1, chunk_frames=4)
    whole.feed(A)
    whole.ask("What now?", max_new_tokens=1)
    assert f"a budget below {tokens} would evict" in next(iter(whole.notes))
