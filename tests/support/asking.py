"""A stream whose raw keys are kept, and a question whose raw queries and fork are, to test rivals on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hermes.memory import KVMemory
from hermes.policy import MemoryPolicy
from hermes.session.answer import Answer
from hermes.session.session import StreamSession
from hermes.testing import Trial
from hermes.testing.trial import _Recorder
from hermes.video import Frame
from tests.support.references import tiny

QUESTION = "Which place came first?"


@dataclass
class Asked:
    """A stream and one question of it.

    ``keys[layer][id]`` and ``values`` are ``[H, D]``, the keys before rotation; ``queries[layer]`` are the
    projections ``[Hq, n, D]`` of the first text that went through the decoder at the question; ``fork`` is
    what answers.
    """

    session: StreamSession
    keys: list[dict[int, torch.Tensor]]
    values: list[dict[int, torch.Tensor]]
    queries: list[torch.Tensor]
    fork: KVMemory

    def ids(self, layer: int) -> list[int]:
        """Ids of what answers, without the prefix."""
        return self.fork[layer].video.id[0, 0].tolist()


def stream_and_ask(
    policy: MemoryPolicy, family: str = "llava_onevision", chunks: int = 5, question: str = QUESTION
) -> Asked:
    backbone = tiny(family)
    recorder, seen = _Recorder(backbone), []
    session = StreamSession(backbone, policy, chunk_frames=4, callbacks=[recorder])
    with recorder.hooked():
        session.feed(Trial("full", backbone).frames(4 * chunks))
    layers: Any = backbone.decoder.layers
    projected: list[list[torch.Tensor]] = [[] for _ in layers]
    inner = session.policy.recall

    def recall(call: Any) -> None:
        inner(call)
        seen.append(call.memory.fork())

    vars(session.policy)["recall"] = recall
    with ExitStack() as stack:
        for index, block in enumerate(layers):
            attention = block.self_attn
            last = attention.q_norm if hasattr(attention, "q_norm") else attention.q_proj
            width = attention.head_dim

            def keep(module: Any, args: Any, output: Any, index: int = index, width: int = width) -> None:
                projected[index].append(output.reshape(output.shape[1], -1, width).transpose(0, 1))

            stack.callback(last.register_forward_hook(keep).remove)
        session.ask(question, max_new_tokens=2)
    del vars(session.policy)["recall"]
    return Asked(session, recorder.keys, recorder.values, [each[0] for each in projected], seen[0])


def gone_on(
    make: Callable[[], MemoryPolicy], frames: Sequence[Frame], folder: Path, family: str = "qwen3_vl"
) -> tuple[list[StreamSession], list[Answer]]:
    """A stream that is saved half-way and goes on, and one that goes on from the save; both are asked."""
    sessions = [StreamSession(tiny(family), make(), chunk_frames=4) for _ in range(2)]
    half = len(frames) // 2
    sessions[0].feed(frames[:half])
    sessions[0].save(folder)
    sessions[1].resume(folder)
    for session in sessions:
        session.feed(frames[half:])
    answers = [session.ask("Which?", max_new_tokens=3) for session in sessions]
    assert answers[0].ids.tolist() == answers[1].ids.tolist()
    assert answers[0].memory_bytes == answers[1].memory_bytes
    return sessions, answers


def holds_exactly(asked: Asked) -> None:
    """What answers holds tokens' own keys, rotated to strictly ordered positions, and their own values."""
    rotary: Any = asked.session.backbone.decoder.rotary_emb
    for layer in asked.fork:
        table = layer.origin
        for slot in range(layer.length):
            name = int(table.id[0, 0, slot])
            key = asked.keys[layer.index][name]
            place = layer.positions[:, 0, 0, slot].view(-1, 1, 1)
            cos, sin = rotary(key[None], place[0] if len(place) == 1 else place)
            half = key.shape[-1] // 2
            turned = key * cos[0] + torch.cat((-key[:, half:], key[:, :half]), dim=-1) * sin[0]
            torch.testing.assert_close(
                layer.keys[0, :, slot], turned, rtol=0, atol=1e-4 * float(key.abs().max())
            )
            assert torch.equal(layer.values[0, :, slot], asked.values[layer.index][name])
