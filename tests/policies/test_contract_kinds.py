"""The contract of policies on decoders of several kinds of layers: states, windows, experts."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from hermes.backbone import Backbone
from hermes.errors import UnsupportedModelError
from hermes.memory import MemoryConfig
from hermes.policies.hermes import Hermes
from hermes.policies.state_only import StateOnly
from hermes.session.session import StreamSession
from hermes.testing import CLAUSES, Trial, over_clauses, over_policies
from tests.support.families import make_frames
from tests.support.references import tiny
from tests.support.tiny_models import tiny_model
from tests.support.tiny_qwen3_5 import tiny_hybrid
from tests.support.tiny_windowed import tiny_windowed

pytestmark = pytest.mark.model

# With which policies every clause is tried by default: guided by attention, and by nothing.
SHORT = ("hermes", "state_only")


def kind(name: str) -> Backbone:
    if name.startswith("gemma4"):
        return tiny_model(name, "stream")
    return tiny_windowed() if name == "windows" else tiny_hybrid(experts=name == "experts")


@cache
def trial(policy: str, name: str) -> Trial:
    return Trial(policy, kind(name))


@over_clauses()
@pytest.mark.parametrize("policy", SHORT)
@pytest.mark.parametrize("name", ["states", "windows", "gemma4_small"])
def test_policy_keeps_the_contract(policy, name, clause):
    clause(trial(policy, name))


@pytest.mark.thorough
@over_policies()
@pytest.mark.parametrize("name", ["states", "windows", "experts", "gemma4_small"])
def test_every_policy_keeps_the_contract(policy, name):
    tried = trial(policy, name)
    if tried.policy().needs_saliency and name.startswith("gemma4"):
        with pytest.raises(UnsupportedModelError, match="saliency"):
            _ = tried.recording
        return
    for clause in CLAUSES:
        clause(tried)


def test_tiers_are_shares_of_the_managed_layers():
    policy = Hermes(budget=60)
    session = StreamSession(tiny_hybrid(), policy, chunk_frames=4)
    assert session.context.num_layers == 2
    assert [len(layers) for layers in policy.boundaries(2).values()] == [0, 1, 1]
    session.feed(make_frames(12))
    assert session.memory.lengths == [session.memory.prefix + budget for budget in policy.budgets(2)]


@pytest.mark.parametrize("name", ["states", "windows"])
def test_state_only_leaves_nothing_but_prefix_and_states(name):
    backbone = kind(name)
    session = StreamSession(backbone, StateOnly(), chunk_frames=4)
    session.feed(make_frames(12))
    assert set(session.memory.lengths) == {session.memory.prefix}
    stats, answer = session.stats(), session.ask("What?")
    assert stats.bytes_by_kind == answer.bytes_by_kind == session.memory.bytes_by_kind()
    # What the states hold is that of the whole stream: an answer over none of it is another.
    fresh = StreamSession(backbone, StateOnly(), chunk_frames=4)
    fresh.feed(make_frames(12, height=96))
    found = [one.memory.states[0].tensors() for one in (session, fresh)]
    assert all(not torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_state_only_says_when_there_are_no_states():
    session = StreamSession(tiny("llava_onevision"), StateOnly(), chunk_frames=4)
    with pytest.warns(UserWarning, match="nothing but the prefix is left"):
        session.feed(make_frames(4))
    assert set(session.memory.lengths) == {session.memory.prefix}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["states", "windows"])
def test_two_thousand_frames_are_flat(name):
    session = StreamSession(kind(name), Hermes(budget=60), chunk_frames=8)
    frames, sizes = make_frames(2000, height=84, width=84), set()
    for start in range(0, 2000, 200):
        session.feed(frames[start : start + 200])
        sizes.add((session.memory.memory_bytes, *session.memory.lengths))
        assert session.memory.next_position < session.context.max_position
    assert len(sizes) == 1
    assert all(bool(tensor.isfinite().all()) for tensor in session.memory.state())
    assert session.ask("What?").ids.numel()


@pytest.mark.parametrize("mode", ["static", "compile"])
def test_other_execution_falls_back_and_says_why(mode, caplog):
    sessions = [
        StreamSession(
            tiny_hybrid(), Hermes(budget=60), chunk_frames=4, memory=MemoryConfig(execution=execution)
        )
        for execution in ("eager", mode)
    ]
    for session in sessions:
        session.feed(make_frames(12))
    answers = [session.ask("What?").ids.tolist() for session in sessions]
    assert answers[0] == answers[1]
    assert "the decoder has layers of other kinds (2 x (3 recurrent, 1 managed))" in caplog.text
