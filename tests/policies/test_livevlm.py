"""LiveVLM against loops: buckets, the newest frame's attention, and the pages that answer."""

from __future__ import annotations

import math

import pytest
import torch

from hermes.parts import Buckets, bucketed
from hermes.policies.livevlm import LiveVlm, VisionAttention
from hermes.session.session import StreamSession
from hermes.testing import Trial
from hermes.testing.trial import copy_state
from tests.support.asking import holds_exactly, stream_and_ask
from tests.support.references import rope, rope_settings, tiny

unit, model = pytest.mark.unit, pytest.mark.model


def slow_buckets(scores: list[float], count: int, capacity: int, first: float) -> list[int]:
    length, number = len(scores), math.ceil(count / capacity)
    bucket = [math.ceil((p * number) / length) for p in range(1, length + 1)]
    order = sorted(range(length), key=lambda i: -scores[i])
    kept = order[: round(first * count)]
    for i in order:
        if len(kept) < count and i not in kept and sum(bucket[j] == bucket[i] for j in kept) < capacity:
            kept.append(i)
    return sorted(kept)


@unit
@pytest.mark.parametrize("count", [4, 12, 24])
@pytest.mark.parametrize("capacity", [1, 2, 4])
@pytest.mark.parametrize("first", [0.0, 0.5, 1.0])
def test_buckets_are_filled_as_by_loops(count, capacity, first):
    scores = torch.rand(2, 3, 31, generator=torch.Generator().manual_seed(count + capacity))
    scores[0, 0, :10] += 2  # sinks
    kept = bucketed(scores, count, capacity, first)
    for stream in range(2):
        for head in range(3):
            expected = slow_buckets(scores[stream, head].tolist(), count, capacity, first)
            assert kept[stream, head].tolist() == expected


@unit
def test_more_room_than_tokens():
    assert bucketed(torch.rand(1, 1, 3), 5, 1, 0.5).tolist() == [[[0, 1, 2]]]


@model
@pytest.mark.parametrize("rank", ["layer", "kv_head"])
def test_what_stays_is_what_the_newest_frame_looks_at(rank):
    """The first eviction of a stream, against attention computed from projections."""
    backbone, raw = tiny("llava_onevision"), {}
    policy = LiveVlm(budget=60, selector=Buckets(rank=rank))
    session = StreamSession(backbone, policy, chunk_frames=4)
    before = []
    inner = session.policy.compress

    def compress(memory, observe):
        before.append(copy_state(memory))
        return inner(memory, observe)

    vars(session.policy)["compress"] = compress
    handles = [
        block.self_attn.q_proj.register_forward_hook(
            lambda module, args, out, index=index: raw.__setitem__(index, out[0].view(out.shape[1], 4, -1))
        )
        for index, block in enumerate(backbone.decoder.layers)
    ]
    session.feed(Trial("full").frames(8))
    for handle in handles:
        handle.remove()
    settings, prefix = rope_settings(backbone), session.memory.prefix
    for layer, state in zip(session.memory, before[1], strict=True):
        length = state["keys"].shape[2]
        assert length == prefix + 72
        keys, places = state["keys"][0], state["positions"][:, 0, 0]
        mass = torch.zeros(4, length, dtype=torch.float64)
        for head in range(4):
            for row in range(9):
                at = length - 9 + row
                query = rope(raw[layer.index][-9 + row, head][None], places[:, at : at + 1], *settings)
                logits = (query @ keys[head // 2, : at + 1].double().T)[0] / keys.shape[-1] ** 0.5
                mass[head, : at + 1] += logits.softmax(-1) / 9
        groups = [mass[:2], mass[2:]] if rank == "kv_head" else [mass]
        for row, group in enumerate(groups):
            scores = group.mean(0)[prefix : length - 15].tolist()
            expected = [*slow_buckets(scores, 45, 1, 0.5), *range(57, 72)]
            ids = [int(state["tokens"][0, 0, 0, prefix + i]) for i in expected]
            assert layer.video.id[0, row].tolist() == ids


@model
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_the_best_pages_answer(family):
    asked = stream_and_ask(LiveVlm(budget=60, page=4), family)
    session, different = asked.session, set()
    for layer in session.memory:
        ids = layer.video.id[0, 0].tolist()
        old, newest = ids[: len(ids) - 15], ids[len(ids) - 15 :]
        pages = [old[at : at + 4] for at in range(0, len(old), 4)]
        queries, mass = asked.queries[layer.index], [0.0] * len(pages)
        for head in range(4):
            means = [sum(asked.keys[layer.index][i][head // 2] for i in page) / len(page) for page in pages]
            for row in range(queries.shape[1]):
                logits = [float(queries[head, row] @ mean) / len(mean) ** 0.5 for mean in means]
                top = max(logits)
                total = sum(math.exp(x - top) for x in logits)
                mass = [m + math.exp(x - top) / total for m, x in zip(mass, logits, strict=True)]
        best = sorted(sorted(range(len(pages)), key=lambda i: -mass[i])[: math.ceil(0.4 * len(pages))])
        assert asked.ids(layer.index) == [i for at in best for i in pages[at]] + newest
        different.add(tuple(best))
    assert len(different) > 1
    holds_exactly(asked)
    if family == "llava_onevision":
        for layer in asked.fork:
            assert layer.positions.flatten().tolist() == list(range(layer.length))


@model
def test_without_retrieval_everything_answers():
    asked = stream_and_ask(LiveVlm(budget=60, pages=1.0))
    assert asked.ids(3) == asked.session.memory[3].video.id[0, 0].tolist()


@model
def test_the_window_of_one_frame_is_the_streams_own():
    policy = LiveVlm(budget=60)
    session = StreamSession(tiny("llava_onevision"), policy, chunk_frames=4)
    session.feed(Trial("full").frames(8))
    assert policy.tiers["all"].scorer == VisionAttention()
    assert {scorer.window for scorer in session.policy.ledger.scorers.values()} == {9}
