"""Random streams through a policy, with everything its rule reads laid open for a slow copy of the rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hermes.attention import AttentionView, reading
from hermes.decoding.observer import DecoderObserver
from hermes.memory import KVMemory, LayerUpdate
from hermes.policy import MemoryPolicy, StreamContext
from hermes.tokens import Provenance, TokenKind
from hermes.video import Frame
from tests.support.references import toy_rotary

PREFIX, HEADS, GROUPS, WIDTH = 2, 2, 2, 8


@dataclass
class LayerStep:
    """One layer at one step: what it held and was given before the policy, and what it holds after.

    ``keys`` and ``values`` [H, T, D], ``query`` [H * G, Q, D], tables as provenance per head.
    """

    index: int
    keys: Tensor
    values: Tensor
    positions: Tensor
    query: Tensor
    before: list[Provenance]
    after: list[Provenance]
    update: LayerUpdate | None
    now: Any

    def kept(self, head: int) -> list[int]:
        """Ids after the prefix, summaries left out."""
        return [i for i in self.after[head].id[PREFIX:].tolist() if i >= 0]


class Told(DecoderObserver):
    """An observer that says random things, and remembers what it said."""

    def __init__(self, memory: KVMemory, generator: torch.Generator) -> None:
        self.memory, self.generator = memory, generator
        self.said: dict[tuple[int, Any], Tensor] = {}
        # The newest chunk, and by layer the queries [Hq, Q, D] and keys [H, Q, D] of its second reading.
        self.newest = Provenance.of(0)
        self.again: dict[int, tuple[Tensor, Tensor]] = {}

    def read_again(self, how, probe):
        for index in probe.layers(len(self.memory)):
            layer, count = self.memory[index], -(-len(self.newest) // how.stride)
            query = torch.randn(1, HEADS * GROUPS, count, WIDTH, generator=self.generator)
            own = torch.randn(1, HEADS, count, WIDTH, generator=self.generator)
            self.again[index] = query[0], own[0]
            view = AttentionView(index, query, layer.keys, own, layer, WIDTH**-0.5, self.newest)
            probe.observe(view)

    def attention(self, requests):
        self.said = {}
        for layer, guidances in requests.items():
            for guidance in guidances:
                held = self.memory[layer]
                rows = max(held.rows, HEADS if guidance.per_head else 1)
                mass = torch.rand(1, rows, held.video_length, generator=self.generator)
                self.said[layer, guidance] = mass / held.video_length
        return self.said


def steps(
    policy: MemoryPolicy,
    chunks: Sequence[int] = (4, 3, 5, 2),
    *,
    layers: int = 3,
    grid: tuple[int, int] = (2, 3),
    seed: int = 0,
    axes: int = 1,
) -> Iterator[tuple[KVMemory, list[LayerStep], Told]]:
    """Chunks of so many frames of random keys, values and queries; what the policy does at each."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    memory = KVMemory(layers, toy_rotary(axes))
    rows, cols = grid
    policy.start(StreamContext(layers, HEADS, 100_000, torch.Generator().manual_seed(seed), lambda h, w: 6))
    queries: dict[int, Tensor] = {}

    def write(tokens: Provenance, *, prefix: bool = False) -> None:
        n = len(tokens)
        probe = None if prefix else policy.watch()
        for layer in memory:
            keys, values = random(1, HEADS, n, WIDTH), random(1, HEADS, n, WIDTH)
            with reading(memory) as scope:
                scope.attended = True
                held, _ = memory.update(keys, values, layer.index)
            queries[layer.index] = query = random(1, HEADS * GROUPS, n, WIDTH)
            if probe is not None and layer.index in set(probe.layers(layers)):
                parts = held[:, :, : layer.length], held[:, :, layer.length :]
                probe.observe(AttentionView(layer.index, query, *parts, layer, WIDTH**-0.5, tokens))
        memory.commit(torch.arange(n).float().expand(axes, n), tokens, n, prefix=prefix)

    write(Provenance.text(PREFIX, kind=TokenKind.PREFIX), prefix=True)
    told, frame, next_id = Told(memory, generator), 0, PREFIX
    for count in chunks:
        parts = []
        for _ in range(count):
            parts.append(
                Provenance.visual(first_id=next_id, frame=frame, time=float(frame), rows=rows, cols=cols)
            )
            frame, next_id = frame + 1, next_id + rows * cols
        write(Provenance.cat(parts))
        told.newest, told.again = Provenance.cat(parts), {}
        before = [
            (layer.keys[0].clone(), layer.values[0].clone(), layer.positions[:, 0], tables(layer))
            for layer in memory
        ]
        seen: dict[int, LayerUpdate] = {}
        compress = type(policy).compress

        def spy(memory: KVMemory, observe: Any, compress=compress, seen=seen) -> Any:
            seen.update(compress(policy, memory, observe))
            return seen

        vars(policy)["compress"] = spy
        policy.step(memory, told)
        del vars(policy)["compress"]
        yield (
            memory,
            [
                LayerStep(
                    layer.index,
                    *before[layer.index][:3],
                    queries[layer.index][0],
                    before[layer.index][3],
                    tables(layer),
                    seen.get(layer.index),
                    layer,
                )
                for layer in memory
            ],
            told,
        )


def tables(layer) -> list[Provenance]:
    """Provenance per KV head."""
    table = layer.origin.table[:, 0].expand(-1, HEADS, -1)
    return [Provenance(table[:, head].clone()) for head in range(HEADS)]


def softmax_rows(step: LayerStep, head: int) -> list[list[list[float]]]:
    """Causal attention of the chunk's queries, [query head of the group][query][token], one row at a time."""
    keys = step.keys[head].double()
    total, count = keys.shape[0], step.query.shape[1]
    out = []
    for g in range(GROUPS):
        rows = []
        for i in range(count):
            seen = total - count + i + 1
            logits = [
                float(step.query[head * GROUPS + g, i].double() @ keys[t]) * WIDTH**-0.5 for t in range(seen)
            ]
            weights = torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()
            rows.append(weights + [0.0] * (total - seen))
        out.append(rows)
    return out


def again_rows(step: LayerStep, told: Told, head: int, seen: list[int]) -> list[list[float]]:
    """Attention of a second reading to the held tokens at ``seen``, a row for each query and query head."""
    query, own = (x.double() for x in told.again[step.index])
    keys, out = step.keys[head].double(), []
    for g in range(GROUPS):
        for i in range(query.shape[1]):
            one = query[head * GROUPS + g, i]
            logits = [float(one @ keys[t]) * WIDTH**-0.5 for t in seen]
            logits += [float(one @ own[head, j]) * WIDTH**-0.5 for j in range(i + 1)]
            out.append(torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()[: len(seen)])
    return out


def best(scores: dict[int, float], count: int) -> list[int]:
    """The ids with the largest scores, ascending."""
    return sorted(sorted(scores, key=lambda token: scores[token], reverse=True)[:count])


def scenes(lengths: list[int]) -> list[Frame]:
    """Frames of one shade each scene, with a little noise."""
    random, out = np.random.default_rng(0), []
    for length in lengths:
        base = random.integers(0, 256, (84, 84, 3))
        for _ in range(length):
            image = np.clip(base + random.integers(-9, 10, base.shape), 0, 255).astype(np.uint8)
            out.append(Frame(image, float(len(out)), len(out)))
    return out


def still_frames(count: int) -> list[Frame]:
    """Noise in which one half of the picture stays as it is."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 84, 84, 3), dtype=np.uint8)
    images[:, :42] = images[0, :42]
    return [Frame(image, float(index), index) for index, image in enumerate(images)]
