"""One source after another, whole chunks and the rest of one: every policy goes on and keeps its budget."""

from __future__ import annotations

import numpy as np
import pytest

from hermes.config import build
from hermes.policy import MemoryPolicy
from hermes.registry import registry
from hermes.session.session import StreamSession
from tests.support.references import tiny

pytestmark = pytest.mark.model
SOURCES = (5, 7, 1, 6)


@pytest.mark.parametrize(
    "name",
    [
        # Its slice of new tokens was empty where a second source began to count its frames anew.
        pytest.param(name, marks=() if name == "infinipot_v" else pytest.mark.thorough)
        for name in registry("policy").names()
    ],
)
@pytest.mark.parametrize("chunk_frames", [1, 2, 3, 4, 5])
def test_a_second_source_goes_on_where_the_first_ended(name: str, chunk_frames: int) -> None:
    draw = np.random.default_rng(0)
    policy: MemoryPolicy = build(MemoryPolicy, {"name": name, "budget": 40}, "policy")  # type: ignore[type-abstract]
    session = StreamSession(tiny("llava_onevision"), policy, chunk_frames=chunk_frames, fps=1)
    for at, count in enumerate(SOURCES, start=1):
        session.feed(draw.integers(0, 256, (count, 42, 42, 3), np.uint8))
        assert session.now == sum(SOURCES[:at])
    answer = session.ask("What?", max_new_tokens=2)
    assert answer.frames_seen == sum(SOURCES)
    session.feed(draw.integers(0, 256, (3, 42, 42, 3), np.uint8))
    session.ask("What?", ["a", "b"])
    if policy.bound == "bounded":
        assert max(session.memory.lengths) <= 40 + session.memory.prefix
