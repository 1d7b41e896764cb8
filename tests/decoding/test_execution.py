"""Recorded steps against eager ones: the same memory, the same answers, a reason where they are not used."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from benchmarks.step import embedding_probe
from hermes.attention import AttentionMass
from hermes.config import build
from hermes.decoding import recording
from hermes.decoding.execution import Execution
from hermes.errors import HermesError
from hermes.memory import KVMemory, LayerUpdate, MemoryConfig
from hermes.parts import Eager, EvenFrames, LayerContext, Lazy, RandomScore, Recency, Scorer, Selector, TopK
from hermes.policies.fifo import Fifo
from hermes.policies.hermes import Hermes
from hermes.policies.hermes_recent import HermesRecent
from hermes.policies.hermes_release import HermesRelease
from hermes.policies.rekv import Rekv
from hermes.policies.snapkv import SnapKV
from hermes.policy import MemoryPolicy, Tier, TieredPolicy
from hermes.session.lockstep import BatchedSession
from hermes.session.session import StreamSession
from tests.support.families import make_frames, tiny
from tests.support.references import noise_chunk
from tests.support.tolerances import close

pytestmark = pytest.mark.model
QUESTION = "What is the person doing now?"
POLICIES: dict[str, Any] = {
    "exact": lambda: Hermes(budget=60),
    "embedding": lambda: embedding_probe(Hermes(budget=60)),
    "identity": lambda: Hermes(budget=60, smoother=type(Hermes().smoother)("identity")),
    "release": lambda: HermesRelease(budget=100),
    "fifo": lambda: Fifo(budget=60),
    "eager": lambda: Hermes(budget=60, reindex=Eager()),
    "lazy": lambda: Hermes(budget=60, reindex=Lazy(margin=32768 - 200)),
    "recent": lambda: HermesRecent(budget=120),
    "random": lambda: build(MemoryPolicy, {"name": "random", "budget": 60}, "policy"),
    "streaming_llm": lambda: build(MemoryPolicy, {"name": "streaming_llm", "budget": 60}, "policy"),
}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are recorded and replayed as they were traced: the compiler has a test of its own."""
    monkeypatch.setattr(recording, "compiled", lambda graph: graph)


def _session(policy: MemoryPolicy, execution: str, family: str = "llava_onevision", **more: Any) -> Any:
    memory = MemoryConfig(execution=execution, **more)
    return StreamSession(tiny(family), policy, memory=memory, chunk_frames=4, fps=2.0, seed=3)


def _same(ours: KVMemory, wanted: KVMemory) -> None:
    assert ours.next_position == wanted.next_position
    assert ours.next_summary_id == wanted.next_summary_id
    for mine, other in zip(ours, wanted, strict=True):
        assert torch.equal(mine.origin.table, other.origin.table)
        assert torch.equal(mine.positions, other.positions)
        assert torch.equal(mine.clock, other.clock)
        close("recorded", mine.keys, other.keys)
        close("recorded", mine.values, other.values)


LONGER = [("qwen3_vl", "exact"), *(("llava_onevision", name) for name in POLICIES if name != "exact")]


@pytest.mark.parametrize(
    ("family", "policy"),
    [
        ("llava_onevision", "exact"),
        ("qwen2_5_vl", "embedding"),
        *(pytest.param(*one, marks=pytest.mark.thorough) for one in LONGER),
    ],
)
def test_recorded_steps_are_the_eager_ones(family: str, policy: str, traced: None) -> None:
    stock, ours = (_session(POLICIES[policy](), mode, family) for mode in ("eager", "compile"))
    for session in (stock, ours):
        session.feed(make_frames(48))
    _same(ours.memory, stock.memory)
    assert ours.execution.prefills.made
    assert ours.execution.compressions.made
    assert not {**ours.execution.prefills.refused, **ours.execution.compressions.refused}


def test_a_question_changes_the_guidance_and_the_record(traced: None) -> None:
    stock, ours = (_session(POLICIES["embedding"](), mode) for mode in ("eager", "compile"))
    # The shape checks of these tests cannot be compiled: compiled decoding is tested in a process of its own.
    ours.execution.decoder = None
    frames = make_frames(72)
    for part, records in ((frames[:36], 1), (frames[36:], 2)):
        stock.feed(part)
        ours.feed(part)
        _same(ours.memory, stock.memory)
        assert len(ours.execution.compressions.made) == records
        assert len(ours.execution.prefills.made) == 1
        assert ours.ask(QUESTION).answer == stock.ask(QUESTION).answer


def test_lockstep_streams_are_recorded_too(traced: None) -> None:
    both = []
    for mode in ("eager", "compile"):
        memory = MemoryConfig(execution=mode)
        batch = BatchedSession(
            tiny("llava_onevision"), Hermes(budget=60), 2, fps=2.0, chunk_frames=4, memory=memory
        )
        frames = make_frames(40)
        turned = [replace(f, image=g.image) for f, g in zip(frames, reversed(frames), strict=True)]
        batch.feed([frames, turned])
        both.append(batch)
    stock, ours = both
    run = ours.execution
    assert run.compressions.made
    assert run.prefills.made
    assert not {**run.prefills.refused, **run.compressions.refused}
    _same(ours.memory, stock.memory)


def test_records_outlive_the_stream(traced: None) -> None:
    """Not what hangs on a stream's seed; and a memory that fills up is not recorded, however many streams."""
    stock, ours = (_session(POLICIES["random"](), mode) for mode in ("eager", "compile"))
    for session in (stock, ours):
        session.chunk_frames = 1
    for seed in (3, 3, 4, 3):
        for session in (stock, ours):
            session.seed = seed
            session.reset()
            session.feed(make_frames(20))
        _same(ours.memory, stock.memory)
    assert len(ours.execution.prefills.made) == 1
    assert len(ours.execution.compressions.made) == 2
    assert not {**ours.execution.prefills.refused, **ours.execution.compressions.refused}


@pytest.mark.thorough
def test_compiled_steps_are_the_eager_ones() -> None:
    stock, ours = (_session(embedding_probe(Hermes(budget=60)), mode) for mode in ("eager", "compile"))
    for session in (stock, ours):
        session.feed(make_frames(32))
    assert ours.execution.prefills.made
    assert ours.execution.compressions.made
    _same(ours.memory, stock.memory)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("policy", ["exact", "embedding", "fifo"])
def test_cuda_graphs_are_the_eager_steps(policy: str) -> None:
    from hermes.backbone import BackboneConfig
    from hermes.backbones.tiny import TinyLlavaOnevision

    backbone = TinyLlavaOnevision.load(BackboneConfig(family="tiny_llava_onevision", device="cuda"))
    stock, ours = (
        StreamSession(backbone, POLICIES[policy](), memory=MemoryConfig(execution=mode), chunk_frames=4)
        for mode in ("eager", "compile")
    )
    for session in (stock, ours):
        session.feed(make_frames(40))
    assert ours.execution.prefills.made
    assert ours.execution.compressions.made
    _same(ours.memory, stock.memory)


# -- what is not recorded ------------------------------------------------------------------------------------


@dataclass
class Newest(MemoryPolicy):
    stateless: ClassVar[bool] = True
    budget: int = 60

    def first(self, memory: KVMemory) -> int:
        return memory[0].video_length - self.budget

    def compress(self, memory: KVMemory, observe: object) -> dict[int, LayerUpdate]:
        first, length = self.first(memory), memory[0].video_length
        return memory.keeping(torch.arange(first, length)) if length > self.budget else {}


@dataclass
class ReadsTheHost(Newest):
    stateless: ClassVar[bool] = True

    def first(self, memory: KVMemory) -> int:
        values = memory[0].keys[0, 0, :2, 0].tolist()
        return super().first(memory) if values[0] != 0.5 else 0


@dataclass
class ReadsTheClock(Newest):
    stateless: ClassVar[bool] = True

    def first(self, memory: KVMemory) -> int:
        return super().first(memory) if memory.next_position else 0


@dataclass
class Counting(Recency):
    calls: int = 0

    def score(self, context: LayerContext) -> torch.Tensor:
        self.calls += 1
        return super().score(context)


@dataclass
class SaysNothing(Fifo):
    def compress(self, memory: KVMemory, observe: Any) -> Any:
        return super().compress(memory, observe)


def _tiered(scorer: Scorer, selector: Selector | None = None) -> TieredPolicy:
    return TieredPolicy(budget=60, tiers={"all": Tier(1.0, scorer)}, selector=selector or TopK())


@pytest.mark.parametrize(
    ("policy", "more", "reason"),
    [
        (ReadsTheHost, {}, "it cannot be recorded: a tensor's value is read on the host"),
        (ReadsTheClock, {}, "it cannot be recorded: memory.next_position is read"),
        (lambda: _tiered(Recency(), EvenFrames()), {}, "it cannot be recorded: a tensor's value is read"),
        (lambda: _tiered(RandomScore(redraw=True)), {}, "it cannot be recorded: random numbers are drawn"),
        (lambda: _tiered(Counting()), {}, "it cannot be recorded: the policy or a part of it remembers"),
        (lambda: SaysNothing(budget=60), {}, "SaysNothing does not say that it is stateless"),
        (lambda: SnapKV(budget=60), {}, "the policy follows the chunks' attention"),
        (lambda: Rekv(budget=60), {}, "Rekv does not say"),
        (lambda: Hermes(budget=60, selector=TopK(rank="kv_head")), {}, "KV heads hold tokens"),
        (lambda: Hermes(budget=60), {"keep_written": True}, "memory.keep_written holds keys twice"),
        (lambda: Hermes(budget=60), {"clock": "first_layer"}, "keys are rotated at the first layer's clock"),
    ],
    ids=[
        "host",
        "clock",
        "frames",
        "random",
        "counts",
        "silent",
        "follows",
        "archives",
        "heads",
        "written",
        "first_layer",
    ],
)
def test_what_is_not_recorded_runs_eagerly_with_a_reason(
    policy: Any, more: dict[str, Any], reason: str, traced: None, caplog: pytest.LogCaptureFixture
) -> None:
    stock = _session(policy(), "eager", **more)
    with caplog.at_level(logging.WARNING):
        ours = _session(policy(), "compile", **more)
        for session in (stock, ours):
            session.feed(make_frames(36))
    _same(ours.memory, stock.memory)
    assert f"the compression runs eagerly, as {reason}" in caplog.text
    assert any(reason in said for said in ours.execution.compressions.refused)
    assert torch.equal(stock.context.generator.get_state(), ours.context.generator.get_state())


def test_a_probed_chunk_is_read_eagerly(traced: None) -> None:
    session = _session(Fifo(budget=60), "compile")
    session.probe = AttentionMass(only=[0])
    session.feed(make_frames(24))
    assert not session.execution.prefills.made
    assert any("probe" in reason for reason in session.execution.prefills.refused)
    assert session.probe.result()


def test_a_compiler_that_fails_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(graph: object) -> Any:
        raise RuntimeError("no C++ compiler was found\nand a long trace")

    monkeypatch.setattr(recording, "compiled", broken)
    stock, ours = (_session(Fifo(budget=60), mode) for mode in ("eager", "compile"))
    with caplog.at_level(logging.WARNING):
        for session in (stock, ours):
            session.feed(make_frames(36))
    _same(ours.memory, stock.memory)
    assert "as it cannot be recorded: no C++ compiler was found" in caplog.text
    assert "long trace" not in caplog.text


def test_shapes_that_do_not_return_are_not_recorded() -> None:
    recordings = recording.Recordings[int]("test", patience=2, room=2, most=3)
    keys = (1, 2, 1, 2, 2, 3, 1, 3, 2, 4, 4)
    # 2 gives way to 3, as it was not used for longest, and there is no fourth record.
    assert [recordings.get(key, lambda key=key: key) for key in keys] == [  # type: ignore[misc]
        *(None, None, 1, 2, 2, None, 1, 3),
        *(None, None, None),
    ]
    assert list(recordings.made) == [1, 3]
    assert list(recordings.refused) == ["it was recorded 3 times: shapes or questions keep changing"]


def test_what_fails_is_tried_three_times_and_what_is_not_due_again() -> None:
    recordings, tried = recording.Recordings[int]("test", patience=1), []

    def broken() -> int:
        tried.append(1)
        raise RuntimeError("broken")

    def later() -> int:
        raise recording.NotYetError

    assert recordings.get(0, later) is None
    assert not recordings.refused
    assert recordings.get(0, lambda: 5) == 5
    for key in range(1, 9):
        assert recordings.get(key, broken) is None
    assert len(tried) == 3
    assert recordings.get(0, broken) == 5


def test_an_interrupted_replay_leaves_the_memory_as_it_was(
    traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session(Hermes(budget=60), "compile")
    frames = make_frames(44)
    session.feed(frames[:40])
    assert session.execution.prefills.made
    before = [tensor.clone() for tensor in session.memory.state()]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KVMemory, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.feed(frames[40:])
    assert all(torch.equal(a, b) for a, b in zip(before, session.memory.state(), strict=True))


def test_a_recorded_update_is_checked(traced: None) -> None:
    session = _session(Hermes(budget=60), "compile")
    session.feed(make_frames(8))
    memory, before = session.memory, session.memory.state()
    with pytest.raises(HermesError, match="layer 3 keeps slots"):
        memory.apply_recorded(memory.state(), [torch.tensor([False, True])], [1, 3], 0)
    assert all(torch.equal(a, b) for a, b in zip(before, memory.state(), strict=True))


def test_eager_is_the_default() -> None:
    session = StreamSession(tiny("llava_onevision"), Fifo(budget=60))
    assert session.execution.mode == "eager"
    assert session.execution.decoder is None
    assert Execution(session.backbone, "static").decoder is not None


WAITS = (
    "tolist",
    "item",
    "cpu",
    "numpy",
    "nonzero",
    "unique",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
)


@pytest.mark.parametrize("policy", ["exact", "embedding", "fifo"])
@pytest.mark.parametrize("mode", ["eager", "compile"])
def test_one_copy_to_the_host_a_step(
    policy: str, mode: str, traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would wait for a GPU is counted."""
    session = _session(POLICIES[policy](), mode)
    *chunks, last = (noise_chunk(session.backbone, 12, at, first_id=100 + 12 * at) for at in range(12))
    for chunk in chunks:
        session.feed_chunk(chunk)
    assert bool(session.execution.compressions.made) == (mode == "compile")
    assert bool(session.execution.prefills.made) == (mode == "compile")
    calls: list[str] = []

    def counted(name: str) -> Any:
        own = getattr(torch.Tensor, name)

        def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return own(self, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in WAITS:
            patch.setattr(torch.Tensor, name, counted(name))
        patch.setattr(torch, "equal", lambda *_: calls.append("equal"))
        session.feed_chunk(last)
    # Whether the chunk has timestamps and protected tokens, and which frame is its newest, is asked of its
    # table, which lies on the host.
    assert sorted(calls) == ["__bool__", "__bool__", "__int__", "tolist"]
