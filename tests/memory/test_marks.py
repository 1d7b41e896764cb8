"""What a memory knows of its tokens on the host: timestamps and protected tokens."""

from __future__ import annotations

import pytest
import torch

from hermes.attention import reading
from hermes.memory import KVMemory
from hermes.tokens import Provenance, TokenKind
from tests.support.references import toy_rotary


def commit(memory: KVMemory, tokens: Provenance, prefix: bool = False) -> None:
    with reading(memory) as scope:
        scope.attended = True
        for layer in memory:
            memory.update(torch.randn(1, 2, len(tokens), 8), torch.randn(1, 2, len(tokens), 8), layer.index)
    memory.commit(torch.arange(float(len(tokens)))[None], tokens, len(tokens), prefix=prefix)


def marked(**columns: list[int]) -> Provenance:
    length = len(next(iter(columns.values())))
    return Provenance.of(length, id=torch.arange(length), **{k: torch.tensor(v) for k, v in columns.items()})


@pytest.mark.parametrize(
    ("columns", "protected", "stamped"),
    [
        ({"protected": [0, 1, 0]}, True, False),
        ({"protected": [1, 1]}, True, False),
        ({"protected": [0, 0]}, False, False),
        ({"kind": [int(TokenKind.VISUAL), int(TokenKind.TIMESTAMP)]}, False, True),
        ({"kind": [int(TokenKind.VISUAL), int(TokenKind.VISUAL)]}, False, False),
    ],
)
def test_a_single_marked_token_is_known(columns, protected, stamped):
    memory = KVMemory(2, toy_rotary(1))
    commit(memory, marked(**columns))
    assert {(layer.has_protected, layer.has_timestamps) for layer in memory} == {(protected, stamped)}
    # It stays known, whatever comes after it.
    commit(memory, marked(protected=[0, 0]))
    assert {(layer.has_protected, layer.has_timestamps) for layer in memory} == {(protected, stamped)}
    memory.reset()
    assert {(layer.has_protected, layer.has_timestamps) for layer in memory} == {(False, False)}


def test_a_protected_prefix_asks_nothing_of_selectors():
    memory = KVMemory(1, toy_rotary(1))
    commit(memory, marked(protected=[1, 1]), prefix=True)
    assert not memory[0].has_protected


def test_an_empty_memory_can_be_copied_chosen_from_and_asked():
    memory = KVMemory(3, toy_rotary(3))
    for one in (memory, memory.fork(), memory.select([0])):
        assert (one.batch_size, one.lengths, one.next_position, one.top) == (0, [0, 0, 0], 0, 0)
        assert one.sync_clocks() == []
        assert one.largest_position() == -1.0
        assert not any(layer.clock.any() for layer in one)
