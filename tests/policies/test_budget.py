"""No bounded policy ever holds, or shows a question, more than its budget: in tokens and in bytes."""

from __future__ import annotations

import pytest

from hermes import KVMemory, Recall
from hermes.policy import MemoryPolicy
from hermes.registry import registry
from hermes.testing import Trial
from tests.support.references import tiny

pytestmark = pytest.mark.model
BOUNDED = [name for name in registry("policy").names() if registry("policy").get(name).bound == "bounded"]


def content_bytes(memory: KVMemory) -> int:
    """Of keys and values."""
    return sum(t.numel() * t.element_size() for layer in memory for t in (layer.keys, layer.values))


def at_most(memory: KVMemory, budget: int) -> int:
    """Bytes of a prefix and ``budget`` tokens in every layer."""
    keys = memory[0].keys
    token = 2 * keys.shape[1] * keys.shape[3] * keys.element_size()
    return token * (memory.prefix + budget) * len(memory.layers)


CASES = [(name, "llava_onevision") for name in BOUNDED]
# Pairs of frames, and timestamps, where frames are held raw.
CASES += [
    (name, "qwen3_vl") for name in BOUNDED if registry("policy").get(name).recall is not MemoryPolicy.recall
]


@pytest.mark.parametrize(("name", "family"), CASES)
def test_bytes_stay_within_the_budget(name, family, monkeypatch):
    backbone, trial = tiny(family), Trial(name, tiny(family))
    session, seen = trial.session(), []
    recall = type(session.policy).recall

    def spy(self: MemoryPolicy, call: Recall) -> None:
        recall(self, call)
        seen.append((call.memory.lengths, content_bytes(call.memory)))

    monkeypatch.setattr(type(session.policy), "recall", spy)
    frames = trial.frames(26)
    for start, stop in ((0, 4), (4, 10), (10, 11), (11, 18), (18, 26)):
        session.feed(frames[start:stop])
        session.flush()
        assert content_bytes(session.memory) <= at_most(session.memory, trial.budget)
        session.ask("What now?", max_new_tokens=1)
        lengths, size = seen[-1]
        assert sum(lengths) <= (session.memory.prefix + trial.budget) * backbone.num_layers
        assert size <= at_most(session.memory, trial.budget)
    assert (seen[-1][0][0] > session.memory.prefix) == (name != "state_only")
