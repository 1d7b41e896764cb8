"""Parity with recorded outputs of the official release: every case found under ``pytest --oracle DIR``."""

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

from hermes.attention import Guidance
from hermes.backbone import Backbone
from hermes.decoding.generation import GenerationConfig
from hermes.dialogue import PROMPT_KINDS, GuidancePrompts
from hermes.memory import KVMemory, MemoryConfig
from hermes.parts import Eager, Selection, TopK
from hermes.policy import TieredPolicy
from hermes.session.session import StreamSession
from hermes.tokens import Chunk, Provenance, VideoState
from policies.hermes_release import HermesRelease, release_tiers
from tests.support.tolerances import close

KV, SCORES, HALF_SCORES = "oracle_kv", "oracle_scores", "oracle_half_scores"


@dataclass
class Recorded(TopK):
    """Keeps what the case says, instead of ranking."""

    keep: ClassVar[list[Tensor]] = []

    def select(self, layers: Any) -> list[Tensor]:
        chosen: list[Selection] = list(layers)
        return [self.keep[one.layer.index].reshape(1, 1, -1) for one in chosen]


class Case:
    """One case: its knobs, arrays and the model they were recorded on."""

    def __init__(self, folder: Path, backbones: Mapping[str, Backbone]) -> None:
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.data = np.load(folder / "data.npz")
        self.backbone = backbones[self.meta["model"]]
        self.half = self.meta["guidance_softmax_dtype"] == "float16"
        self.forced = str(self.meta["keep_source"]).startswith("forced")
        self.qwen = self.meta["family"] == "qwen"

    def tensor(self, key: str) -> Tensor:
        array = torch.from_numpy(np.asarray(self.data[key]))
        return array.float() if array.is_floating_point() else array.long()

    def policy(self) -> TieredPolicy:
        probe = "exact" if self.meta["guidance_scores"] == "output_attentions" else "embedding"
        policy = HermesRelease(
            budget=self.meta["kv_size"],
            tiers=release_tiers("qwen" if self.qwen else "llava", probe, self.half),  # type: ignore[arg-type]
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
            fps=self.meta["sample_fps"] or 1.0,
            generation=generation,
            memory=MemoryConfig(clock=clock),  # type: ignore[arg-type]
        )

    def chunk(self, number: int, first_id: int) -> Chunk:
        """The stored embeddings at positions computed by us."""
        embeds = self.tensor(f"c{number:02d}.embeds")[None]
        length = embeds.shape[1]
        if self.qwen:
            groups, height, width = self.meta["steps"][number]["grid_thw"]
            positions = self.backbone.stream_positions(  # type: ignore[attr-defined]
                groups, height // 2, width // 2, fps=self.meta["sample_fps"] or 1.0
            )
        else:
            positions = torch.arange(length, dtype=torch.float32)[None]
        tokens = Provenance.of(length, id=first_id + torch.arange(length), frame=torch.arange(length), kind=1)
        return Chunk(embeds, positions, int(positions.max()) + 1, tokens, self.meta["chunks_frames"][number])


def prompts(number: int) -> GuidancePrompts:
    """Prompts named after their chunk; the case's token ids stand for them."""
    return GuidancePrompts(local_text=f"local {number}", global_text=f"global {number}")


def test_oracle_case(
    oracle_case: Path, oracle_backbones: Mapping[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(oracle_case, oracle_backbones)
    meta, layers = case.meta, case.meta["num_layers"]
    ids: dict[str, Tensor] = {}
    for step in range(len(meta["steps"])):
        for kind in PROMPT_KINDS:
            ids[prompts(step).render(kind)] = case.tensor(f"c{step:02d}.ids_{kind}")[None]
    monkeypatch.setattr(case.backbone, "encode", lambda text: ids[text])
    monkeypatch.setattr(case.backbone, "prefix", lambda state: _prefix(case, state))

    policy = case.policy()
    session = case.session(policy)
    memory = session.memory
    questions = {q["index"]: q for q in meta["questions"]}
    next_id = meta["prefix_len"]
    for step, record in enumerate(meta["steps"]):
        policy.prompts = prompts(step)
        key = f"c{step:02d}"
        session._begin()
        if step == 0:
            _same_layers(case, memory, "init.K", "init.V", "init.pos")
        assert _starts(memory) == case.tensor(f"{key}.start").tolist()
        recorder = _Recorder(case, key, policy)
        monkeypatch.setattr(policy, "step", recorder.step)
        if case.forced:
            Recorded.keep = _kept(case, key, meta["prefix_len"], layers)
        session.feed_chunk(case.chunk(step, next_id))
        next_id += record["new_tokens"]
        assert set(memory.lengths) == {record["len_after"]}
        assert _starts(memory) == record["next_start_per_layer"]
        _same_positions(case, memory, f"{key}.pos_after")
        if record["kv_saved"]:
            _same_kv(case, memory, f"{key}.K_after", f"{key}.V_after")
        for index in [i for i, q in questions.items() if q["after_chunk"] == step]:
            _ask(case, session, index)


class _Recorder:
    """Compares everything between the encoding of a chunk and its compression."""

    def __init__(self, case: Case, key: str, policy: TieredPolicy) -> None:
        self.case, self.key, self.policy = case, key, policy

    def step(self, memory: KVMemory, observe: Any) -> bool:
        case, key, policy = self.case, self.key, self.policy
        layers, prefix = len(memory.layers), memory.prefix
        for index, layer in enumerate(memory):
            n = case.data[f"{key}.K_new"].shape[2]
            close(KV, layer.keys[0, :, -n:], case.tensor(f"{key}.K_new")[index])
            close(KV, layer.values[0, :, -n:], case.tensor(f"{key}.V_new")[index])
            _equal_positions(layer.positions[:, 0, 0, -n:], case.tensor(f"{key}.pos_new")[index])  # type: ignore[index]
        assert _starts(memory) == case.tensor(f"{key}.query_start").tolist()
        scores = HALF_SCORES if case.half else SCORES
        wanted = [True] * layers
        for index in range(layers):
            tier = policy._names(layers)[index]
            kind = {"sensory": "local", "working": "mixed", "long_term": "global"}[tier]
            mode = "exact" if case.meta["guidance_scores"] == "output_attentions" else "embedding"
            guidance = Guidance(policy.prompts.render(kind), mode, half=case.half)  # type: ignore[arg-type]
            mass = observe.attention({index: (guidance,)})[index, guidance]
            close(scores, mass[0, 0], case.tensor(f"{key}.attn")[index])
        plain = replace(
            policy, tiers={name: replace(tier, smoothing=0.0) for name, tier in policy.tiers.items()}
        )
        plain.start(policy.context)
        for name, chosen in (("raw", plain), ("refined", policy)):
            for index, score in enumerate(chosen.score(memory, observe, wanted)):
                assert score is not None
                close(scores, score[0, 0], case.tensor(f"{key}.{name}")[index])
        updates = policy.compress(memory, observe)
        expected = _kept(case, key, 0, layers)
        if case.meta["steps"][int(key[1:])]["compressed"]:
            for index in range(layers):
                assert updates[index].keep[0, 0].tolist() == expected[index].tolist()
        else:
            assert not updates
        assert prefix == case.meta["prefix_len"]
        return TieredPolicy.step(policy, memory, observe)


def _kept(case: Case, key: str, prefix: int, layers: int) -> list[Tensor]:
    keep, length = case.tensor(f"{key}.keep"), case.tensor(f"{key}.keep_len")
    return [keep[index, prefix : int(length[index])] - prefix for index in range(layers)]


def _prefix(case: Case, state: VideoState) -> Chunk:
    ids = case.tensor("init.ids")[None]
    length = ids.shape[1]
    positions = torch.arange(length, dtype=torch.float32).expand(case.backbone.axes, length)
    return Chunk(case.backbone.embed(ids), positions, length, Provenance.text(length, first_id=-length), 0)


def _starts(memory: KVMemory) -> list[int]:
    return [int(layer.clock) for layer in memory]


def _same_layers(case: Case, memory: KVMemory, keys: str, values: str, positions: str) -> None:
    _same_kv(case, memory, keys, values)
    _same_positions(case, memory, positions)


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


def _ask(case: Case, session: StreamSession, index: int) -> None:
    before = [tensor.clone() for tensor in session.memory.state()]
    capture = _Capture()
    answer = session.ask(
        "recorded",
        ids=case.tensor(f"q{index:02d}.prompt_ids")[None],
        processors=[capture],
        eos_token_id=case.meta["eos_token_id"],
    )
    close(KV, torch.stack(capture.seen), case.tensor(f"q{index:02d}.logits"))
    assert answer.ids.tolist() == case.tensor(f"q{index:02d}.answer_ids").tolist()
    assert all(torch.equal(a, b) for a, b in zip(before, session.memory.state(), strict=True))
