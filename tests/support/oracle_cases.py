"""Replays recorded cases of the official release through a session and compares everything on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor

from hermes.attention import Guidance, Mode
from hermes.backbone import Backbone
from hermes.decoding.generation import GenerationConfig
from hermes.dialogue import PROMPT_KINDS, GuidancePrompts, Round
from hermes.memory import KVMemory, MemoryConfig
from hermes.parts import Eager, Selection, TopK
from hermes.policies.hermes_release import HermesRelease, release_tiers
from hermes.policy import TieredPolicy
from hermes.session.session import StreamSession
from hermes.tokens import Chunk, Provenance, VideoState
from tests.support.tolerances import close

KV, SCORES, HALF_SCORES = "oracle_kv", "oracle_scores", "oracle_half_scores"


@dataclass
class Recorded(TopK):
    """Keeps what the case says, instead of ranking."""

    keep: ClassVar[list[Tensor]] = []

    def select(self, layers: Any) -> list[Tensor]:
        chosen: list[Selection] = list(layers)
        return [self.keep[one.layer.index].reshape(1, 1, -1) for one in chosen]


@dataclass
class RecordedPrompts(GuidancePrompts):
    """The prompts of one step, rendered as names that stand for the token ids of the case.

    Those ids hold the last round already, so that a name does not depend on it. That the policy hands it on
    is checked all the same.

    Attributes:
        step: number of the chunk.
        last: the last round asked.
    """

    step: int = 0
    last: Round | None = None

    def name(self, kind: str) -> str:
        return f"{kind} prompt of step {self.step}"

    def render(self, kind: str, last: Round | None = None) -> str:
        assert last == self.last, f"step {self.step}: the last round was {self.last}, not {last}"
        text = super().render(kind, last)
        if last is not None:
            times = 2 if kind == "mixed" else 1
            assert text.count(last.question) >= times
            assert text.count(last.answer_text) >= times
        return self.name(kind)


class Case:
    """One case: its knobs, arrays and the model they were recorded on."""

    def __init__(self, folder: Path, backbones: Mapping[str, Backbone]) -> None:
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        with np.load(folder / "data.npz") as data:
            self.data = dict(data)
        self.steps: list[dict[str, Any]] = self.meta["steps"]
        self.backbone = backbones[self.meta["model"]]
        self.half = self.meta["guidance_softmax_dtype"] == "float16"
        self.forced = str(self.meta["keep_source"]).startswith("forced")
        self.qwen = self.meta["family"] == "qwen"
        self.fps: float = self.meta["sample_fps"] or 1.0
        exact = "output_attentions" in self.meta["guidance_scores"]
        assert exact != ("shortcut" in self.meta["guidance_scores"])
        self.mode: Mode = "exact" if exact else "embedding"

    def tensor(self, key: str) -> Tensor:
        array = torch.from_numpy(np.asarray(self.data[key]))
        return array.float() if array.is_floating_point() else array.long()

    def prompt_ids(self) -> dict[str, Tensor]:
        """Token ids of the guidance prompts, by the names under which they are rendered."""
        return {
            RecordedPrompts(step=step).name(kind): self.tensor(f"c{step:02d}.ids_{kind}")[None]
            for step in range(len(self.steps))
            for kind in PROMPT_KINDS
        }

    def questions(self, step: int) -> list[dict[str, Any]]:
        """The questions after one chunk, in the order in which they were asked."""
        own = [question for question in self.meta["questions"] if question["after_chunk"] == step]
        return sorted(own, key=lambda question: question["index"])

    def policy(self) -> TieredPolicy:
        policy = HermesRelease(
            budget=self.meta["kv_size"],
            tiers=release_tiers("qwen" if self.qwen else "llava", self.mode, self.half),
        )
        if not self.meta["streaming"]:
            policy.reindex = Eager()
        if self.forced:
            policy.selector = Recorded()
        return policy

    def session(self, policy: TieredPolicy) -> StreamSession:
        clock = "per_layer" if self.meta["per_layer_positions_drive_rope"] else "first_layer"
        generation = GenerationConfig(
            max_new_tokens=self.meta["max_new_tokens"], repetition_penalty=self.meta["repetition_penalty"]
        )
        return StreamSession(
            self.backbone,
            policy,
            fps=self.fps,
            generation=generation,
            memory=MemoryConfig(clock=clock),  # type: ignore[arg-type]
        )

    def prefix(self, state: VideoState) -> Chunk:
        ids = self.tensor("init.ids")[None]
        length = ids.shape[1]
        positions = torch.arange(length, dtype=torch.float32).expand(self.backbone.axes, length)
        return Chunk(
            self.backbone.embed(ids), positions, length, Provenance.text(length, first_id=-length), 0
        )

    def chunk(self, step: int, first_id: int) -> Chunk:
        """The stored embeddings at positions computed by us."""
        embeds = self.tensor(f"c{step:02d}.embeds")[None]
        length = embeds.shape[1]
        if self.qwen:
            groups, height, width = self.steps[step]["grid_thw"]
            positions = self.backbone.stream_positions(  # type: ignore[attr-defined]
                groups, height // 2, width // 2, fps=self.fps
            )
        else:
            positions = torch.arange(length, dtype=torch.float32)[None]
        tokens = Provenance.of(length, id=first_id + torch.arange(length), frame=torch.arange(length), kind=1)
        return Chunk(embeds, positions, int(positions.max()) + 1, tokens, self.meta["chunks_frames"][step])

    def kept(self, step: int, prefix: int) -> list[Tensor]:
        """The slots each layer kept, counted after the first ``prefix`` ones."""
        keep, length = self.tensor(f"c{step:02d}.keep"), self.tensor(f"c{step:02d}.keep_len").tolist()
        return [slots[prefix:n] - prefix for slots, n in zip(keep, length, strict=True)]


def replay(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feed a session what the case was fed, ask what it was asked, and compare at every step."""
    meta = case.meta
    assert case.backbone.max_position == meta["max_position_embeddings"]
    monkeypatch.setattr(case.backbone, "encode", case.prompt_ids().__getitem__)
    monkeypatch.setattr(case.backbone, "prefix", case.prefix)

    policy = case.policy()
    session = case.session(policy)
    memory = session.memory
    last: Round | None = None
    asked, next_id = 0, meta["prefix_len"]
    for step, record in enumerate(case.steps):
        key = f"c{step:02d}"
        policy.prompts = RecordedPrompts(step=step, last=last)
        session.write_prefix()
        if step == 0:
            _same_kv(case, memory, "init.K", "init.V")
            _same_positions(case, memory, "init.pos")
        assert _starts(memory) == case.tensor(f"{key}.start").tolist()
        monkeypatch.setattr(policy, "step", _Recorder(case, step, policy).step)
        if case.forced:
            Recorded.keep = case.kept(step, meta["prefix_len"])
        session.feed_chunk(case.chunk(step, next_id))
        next_id += record["new_tokens"]
        assert set(memory.lengths) == {record["len_after"]}
        assert _starts(memory) == record["next_start_per_layer"]
        _same_positions(case, memory, f"{key}.pos_after")
        if record["kv_saved"]:
            _same_kv(case, memory, f"{key}.K_after", f"{key}.V_after")
        for question in case.questions(step):
            last = _ask(case, session, question)
            asked += 1
    assert asked == len(meta["questions"])


class _Recorder:
    """Compares everything between the encoding of a chunk and its compression."""

    def __init__(self, case: Case, step: int, policy: TieredPolicy) -> None:
        self.case, self.number, self.policy = case, step, policy

    def step(self, memory: KVMemory, observe: Any) -> bool:
        case, key, policy = self.case, f"c{self.number:02d}", self.policy
        record, prompts = case.steps[self.number], policy.prompts
        assert isinstance(prompts, RecordedPrompts)
        layers, n = len(memory.layers), record["new_tokens"]
        for index, layer in enumerate(memory):
            close(KV, layer.keys[0, :, -n:], case.tensor(f"{key}.K_new")[index])
            close(KV, layer.values[0, :, -n:], case.tensor(f"{key}.V_new")[index])
            _equal_positions(layer.positions[:, 0, 0, -n:], case.tensor(f"{key}.pos_new")[index])  # type: ignore[index]
        assert _starts(memory) == case.tensor(f"{key}.query_start").tolist()
        scores = HALF_SCORES if case.half else SCORES
        for index, tier in enumerate(policy._names(layers)):
            kind = {"sensory": "local", "working": "mixed", "long_term": "global"}[tier]
            guidance = Guidance(prompts.name(kind), case.mode, half=case.half)
            mass = observe.attention({index: (guidance,)})[index, guidance]
            close(scores, mass[0, 0], case.tensor(f"{key}.attn")[index])
        plain = replace(
            policy, tiers={name: replace(tier, smoothing=0.0) for name, tier in policy.tiers.items()}
        )
        plain.start(policy.context)
        for name, chosen in (("raw", plain), ("refined", policy)):
            for index, score in enumerate(chosen.score(memory, observe, [True] * layers)):
                assert score is not None
                close(scores, score[0, 0], case.tensor(f"{key}.{name}")[index])
        updates = policy.compress(memory, observe)
        if record["compressed"]:
            gaps = case.tensor(f"{key}.topk_gap").tolist()
            for index, slots in enumerate(case.kept(self.number, 0)):
                ours = updates[index].keep[0, 0].tolist()
                assert ours == slots.tolist(), (
                    f"{key}, layer {index}: the last kept leads by {gaps[index]:.1e}"
                )
        else:
            assert not updates
        assert memory.prefix == case.meta["prefix_len"]
        return TieredPolicy.step(policy, memory, observe)


def _starts(memory: KVMemory) -> list[int]:
    return [int(layer.clock) for layer in memory]


def _same_kv(case: Case, memory: KVMemory, keys: str, values: str) -> None:
    for index, layer in enumerate(memory):
        close(KV, layer.keys[0], case.tensor(keys)[index])
        close(KV, layer.values[0], case.tensor(values)[index])


def _same_positions(case: Case, memory: KVMemory, key: str) -> None:
    for index, layer in enumerate(memory):
        _equal_positions(layer.positions[:, 0, 0], case.tensor(key)[index])  # type: ignore[index]


def _equal_positions(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours, theirs.reshape(ours.shape).float())


class _Capture(LogitsProcessor):
    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(scores[0].clone())
        return scores


def _ask(case: Case, session: StreamSession, question: dict[str, Any]) -> Round:
    """Ask a recorded question; returns the round that the prompts must tell of from now on."""
    key, end = f"q{question['index']:02d}", case.meta["eos_token_id"]
    assert _starts(session.memory) == case.tensor(f"{key}.start").tolist()
    before = [tensor.clone() for tensor in session.memory.state()]
    capture = _Capture()
    # A text of its own: recorded questions may read the same.
    text = f"question {question['index']}"
    answer = session.ask(
        text, ids=case.tensor(f"{key}.prompt_ids")[None], processors=[capture], eos_token_id=end
    )
    ours, theirs = answer.ids.tolist(), case.tensor(f"{key}.answer_ids").tolist()
    # The token that ends an answer may or may not be written down with it.
    words = [ids[:-1] if ids[-1:] == [end] else ids for ids in (ours, theirs)]
    logits = case.tensor(f"{key}.logits")
    rows = min(len(logits), len(capture.seen))
    assert rows >= len(words[1])
    close(KV, torch.stack(capture.seen)[:rows], logits[:rows])
    assert words[0] == words[1]
    assert all(torch.equal(a, b) for a, b in zip(before, session.memory.state(), strict=True))
    said = case.backbone.decode(torch.tensor(theirs, dtype=torch.long)).strip()
    if not question.get("mc") and "answer_text" in question:
        # Spaces aside: tokenizers differ in those they take out again.
        assert "".join(said.split()) == "".join(question["answer_text"].split())
    return Round(text, said)
