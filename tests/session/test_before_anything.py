"""Public entry points before anything was fed: they answer, or say that nothing was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hermes.attention import AttentionMass, Guidance
from hermes.errors import InputError
from hermes.policies.fifo import Fifo
from hermes.policies.hermes import Hermes
from hermes.session.lockstep import BatchedSession
from hermes.session.memory_map import held_frames, session_map
from hermes.session.session import StreamSession, probing
from tests.support.families import each_family, make_frames, tiny

pytestmark = pytest.mark.model


def fresh(family: str = "llava_onevision") -> StreamSession:
    return StreamSession(tiny(family), Hermes(budget=60), chunk_frames=4)


def _probing(session: StreamSession, folder: Path) -> Any:
    with probing(session, AttentionMass()) as probe:
        session.feed([])
        session.flush()
        return probe.result()


ENTRIES: dict[str, Callable[[StreamSession, Path], Any]] = {
    "stats": lambda session, folder: session.stats().tokens_per_layer,
    "lengths": lambda session, folder: session.memory.lengths,
    "bytes": lambda session, folder: session.memory.memory_bytes,
    "flush": lambda session, folder: session.flush(),
    "feed nothing": lambda session, folder: session.feed([]),
    "watch nothing": lambda session, folder: list(session.watch([], [])),
    "watch and stop": lambda session, folder: list(session.watch([], [1.0, 2.0])),
    "probing": _probing,
    "held frames": lambda session, folder: held_frames(session.memory),
    "map": lambda session, folder: session_map(session, folder / "map.png"),
    "reset": lambda session, folder: session.reset(),
    "close": lambda session, folder: session.close(),
    "fork": lambda session, folder: session.memory.fork().lengths,
    "repr": lambda session, folder: repr(session),
    "save": lambda session, folder: session.save(folder / "saved"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_before_anything_was_fed(name: str, tmp_path: Path) -> None:
    session = fresh()
    with suppress(InputError):
        ENTRIES[name](session, tmp_path)
    # And then it goes on as if nothing had been called.
    session.feed(make_frames(8))
    assert session.ask("What now?", max_new_tokens=2).frames_seen == 8


@pytest.mark.parametrize(
    "ask", [lambda s: s.ask("What now?"), lambda s: list(s.watch([], [1.0])) and s.ask("?")]
)
def test_a_question_before_any_frame_says_so(ask: Callable[[StreamSession], Any]) -> None:
    with pytest.raises(InputError, match="no frame was seen"):
        ask(fresh())


def test_streams_in_lockstep_before_anything() -> None:
    session = BatchedSession(tiny("llava_onevision"), Fifo(budget=40), 2, chunk_frames=4)
    assert [stats.frames for stats in session.stats()] == [0, 0]
    session.feed([[], []])
    with pytest.raises(InputError, match="no frame was seen"):
        session.ask("What now?")


@each_family
def test_a_probe_sees_the_first_chunk_over_the_prefix(family: str) -> None:
    session, seen = fresh(family), []

    class Look(AttentionMass):
        def observe(self, view: Any) -> None:
            seen.append((view.index, view.layer.length, int(view.tokens.frame.max())))

    with probing(session, Look()):
        session.feed(make_frames(8))
    assert {length for _, length, _ in seen} >= {session.memory.prefix}
    assert min(length for _, length, _ in seen) == session.memory.prefix
    assert {newest for _, _, newest in seen} >= {-1}


def test_attention_over_an_empty_memory_is_refused() -> None:
    with pytest.raises(InputError, match="holds nothing yet"):
        fresh().observer.attention({0: [Guidance("What now?")]})
