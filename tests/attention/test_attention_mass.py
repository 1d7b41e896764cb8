"""`AttentionMass` is the mean over every query of every call since the layer's tokens last changed."""

from __future__ import annotations

import torch

from hermes import AttentionMass, AttentionView, KVMemory, LayerUpdate
from tests.support.memory_cases import write
from tests.support.references import PlainMemory, toy_rotary

HEADS, WIDTH = 2, 8


def memory_of(length: int) -> KVMemory:
    memory = KVMemory(1, toy_rotary(1))
    write(memory, [PlainMemory(1, HEADS, WIDTH, 1)], length, 0)
    return memory


def view(memory: KVMemory, queries: int, seed: int) -> AttentionView:
    """Queries so large that every call attends to tokens of its own."""
    random = torch.Generator().manual_seed(seed)
    query = 6 * torch.randn(1, 2 * HEADS, queries, WIDTH, generator=random)
    own = torch.randn(1, HEADS, queries, WIDTH, generator=random)
    return AttentionView(0, query, memory[0].keys, own, memory[0], WIDTH**-0.5)


def one_by_one(seen: list[AttentionView]) -> torch.Tensor:
    """Each query's softmax over what it sees, averaged over heads and queries, written as loops."""
    rows = []
    for one in seen:
        held, queries = one.memory.shape[2], one.query.shape[2]
        for head in range(one.query.shape[1]):
            keys = torch.cat((one.memory[0, head // 2], one.own[0, head // 2]))
            for number in range(queries):
                visible = keys[: held + number + 1]
                rows.append(((visible @ one.query[0, head, number]) * one.scaling).softmax(0)[:held])
    return torch.stack(rows).mean(0)


def test_every_query_of_every_call_counts_alike() -> None:
    memory, probe, seen = memory_of(9), AttentionMass(), []
    for seed, queries in ((1, 4), (2, 1), (3, 2)):
        seen.append(view(memory, queries, seed))
        probe.observe(seen[-1])
        torch.testing.assert_close(probe.result()[0][0, 0], one_by_one(seen))
    last, whole = one_by_one(seen[-1:]), one_by_one(seen)
    assert (last - whole).abs().max() > 0.05


def test_a_layer_whose_tokens_change_starts_afresh() -> None:
    memory, probe = memory_of(9), AttentionMass()
    probe.observe(view(memory, 4, 1))
    memory.apply({0: LayerUpdate(torch.tensor([[[0, 2, 3, 5, 8]]]))})
    after = view(memory, 3, 2)
    probe.observe(after)
    torch.testing.assert_close(probe.result()[0][0, 0], one_by_one([after]))


def test_an_empty_layer_is_not_seen() -> None:
    memory, probe = memory_of(4), AttentionMass()
    empty = KVMemory(1, toy_rotary(1))
    probe.observe(
        AttentionView(
            0,
            torch.randn(1, 4, 1, WIDTH),
            torch.empty(1, HEADS, 0, WIDTH),
            torch.randn(1, HEADS, 1, WIDTH),
            empty[0],
            1.0,
        )
    )
    assert probe.result() == {}
    probe.observe(view(memory, 2, 5))
    assert set(probe.result()) == {0}
