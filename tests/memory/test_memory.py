"""The memory against plain references: ragged layers and heads, mixes, re-indexing, copies, failures."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.errors import HermesError
from hermes.memory import LayerUpdate, Mix
from hermes.tokens import TokenKind
from tests.support.memory_cases import check, random_update, toy, write
from tests.support.references import (
    FAMILIES,
    DenseDecoder,
    cloned,
    identical,
    new_memory,
    noise_chunk,
    prefill,
    same_memory,
    tiny,
)
from tests.support.tolerances import close

MIXES = ("none", "summary", "groups", "targets")


# -- through the model ---------------------------------------------------------------------------------------

SCENARIOS = {
    "layers": {"heads": 1, "mix": "none", "compact": (False, False), "keep_written": False},
    "layers, compact": {"heads": 1, "mix": "none", "compact": (False, True), "keep_written": False},
    "heads": {"heads": 2, "mix": "none", "compact": (False, False), "keep_written": False},
    "heads, compact, written": {"heads": 2, "mix": "none", "compact": (True, True), "keep_written": True},
    "summary, compact": {"heads": 1, "mix": "summary", "compact": (False, True), "keep_written": False},
    "summary per head, written": {
        "heads": 2,
        "mix": "summary",
        "compact": (True, False),
        "keep_written": True,
    },
    "groups, compact": {"heads": 1, "mix": "groups", "compact": (True, True), "keep_written": False},
    "targets, compact": {"heads": 2, "mix": "targets", "compact": (True, True), "keep_written": False},
    "targets, written": {"heads": 1, "mix": "targets", "compact": (False, True), "keep_written": True},
}


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_ragged_memory_is_the_dense_reference(family, scenario):
    backbone, rng = tiny(family), random.Random(scenario["mix"] + family)
    memory, dense = new_memory(backbone, keep_written=scenario["keep_written"]), DenseDecoder(backbone)

    def both(length: int, seed: int, text: bool = False) -> None:
        chunk = noise_chunk(backbone, length, seed, first_id=100 * seed, text=text)
        hidden = prefill(backbone, memory, chunk, prefix=seed == 0)
        ids = chunk.tokens.id.tolist()
        expected, _ = dense.run(
            chunk.embeds[0], chunk.positions, ids, [level[0] for level in chunk.deepstack]
        )
        close("one_shot", hidden[0], expected)

    both(5, 0, text=True)
    dense.memory.prefix = memory.prefix
    for step, (length, compact) in enumerate(zip((18, 13), scenario["compact"], strict=True)):
        both(length, step + 1)
        updates = {
            layer.index: random_update(rng, layer, heads=scenario["heads"], mix=scenario["mix"])
            for layer in memory
            if rng.random() < 0.8
        }
        memory.apply(updates, compact=compact)
        dense.memory.apply(updates, compact)
        same_memory(memory, dense.memory, dense.frequencies, dense.axes)
    assert len(set(memory.lengths)) > 1
    both(6, 3, text=True)
    both(1, 4, text=True)


@pytest.mark.model
def test_a_layer_may_keep_nothing_but_the_prefix():
    backbone = tiny("qwen2_5_vl")
    memory, dense = new_memory(backbone), DenseDecoder(backbone)
    for seed, length in ((0, 4), (1, 9)):
        chunk = noise_chunk(backbone, length, seed, first_id=100 * seed, text=seed == 0)
        prefill(backbone, memory, chunk, prefix=seed == 0)
        dense.run(chunk.embeds[0], chunk.positions, chunk.tokens.id.tolist())
    dense.memory.prefix = memory.prefix
    updates = {4: memory[4].keeping(torch.empty(0, dtype=torch.int64))}
    memory.apply(updates)
    dense.memory.apply(updates, False)
    assert memory.lengths[3:6] == [13, 4, 13]
    chunk = noise_chunk(backbone, 7, 2, first_id=200)
    hidden = prefill(backbone, memory, chunk)
    close("one_shot", hidden[0], dense.run(chunk.embeds[0], chunk.positions)[0])


# -- without a model -----------------------------------------------------------------------------------------


@pytest.mark.unit
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    axes=st.sampled_from([1, 3]),
    batch=st.integers(1, 2),
    keep_written=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(MIXES), st.sampled_from([1, 2]), st.booleans(), st.integers(1, 6)),
        min_size=1,
        max_size=4,
    ),
)
def test_any_sequence_of_updates_is_the_plain_memory(seed, axes, batch, keep_written, steps):
    rng = random.Random(seed)
    memory, plain = toy(axes, batch, keep_written=keep_written)
    for number, (mix, heads, compact, length) in enumerate(steps):
        updates = {
            layer.index: random_update(rng, layer, heads=heads, mix=mix, batch=batch)
            for layer in memory
            if rng.random() < 0.7
        }
        memory.apply(updates, compact=compact)
        for stream in plain:
            stream.apply(updates, compact)
        check(memory, plain)
        assert memory.next_position == max(head.clock for s in plain for layer in s.layers for head in layer)
        write(memory, plain, length, 1000 * (number + 1))
        check(memory, plain)


@pytest.mark.unit
def test_one_row_serves_all_streams():
    memory, plain = toy(batch=2)
    update = {1: memory[1].keeping(torch.tensor([0, 3, 7]))}
    memory.apply(update)
    for stream in plain:
        stream.apply(update, False)
    check(memory, plain)


@pytest.mark.unit
def test_keeping_sorts_and_adds_the_prefix():
    memory, _ = toy()
    assert memory[0].keeping(torch.tensor([5, 0])).keep.tolist() == [[[0, 1, 2, 3, 8]]]
    assert memory[0].keeping(torch.tensor([[5, 0], [1, 2]])).keep.tolist() == [
        [[0, 1, 2, 3, 8], [0, 1, 2, 4, 5]]
    ]


@pytest.mark.unit
def test_a_summary_says_what_it_stands_for():
    memory, _ = toy()
    mean = Mix(torch.arange(3, 9)[None, None], torch.full((1, 1, 6), 1 / 6))
    memory.apply({0: LayerUpdate(torch.tensor([[[0, 1, 2, 9, 10]]]), mean)})
    video = memory[0].video
    assert video.id.tolist() == [[[106, 107, -2]]]
    assert video.kind.tolist() == [[[1, 1, int(TokenKind.SUMMARY)]]]
    assert video.weight.tolist() == [[[1, 1, 6]]]
    assert video.frame.tolist() == [[[26, 26, 26]]]  # the latest of its members'
    assert video.time[0, 0, -1].item() == pytest.approx(0.1025)  # the mean of its members'
    half = Mix(torch.tensor([[[4, 5]]]), torch.tensor([[[0.5, 0.5]]]))
    memory.apply({0: LayerUpdate(torch.tensor([[[0, 1, 2, 3]]]), half)})
    assert memory[0].video.id.tolist() == [[[106, -3]]]
    assert memory[0].video.weight.tolist() == [[[1, 7]]]


@pytest.mark.unit
def test_nothing_asked_is_nothing_done():
    memory, _ = toy()
    before, pointers = cloned(memory), [tensor.data_ptr() for tensor in memory.state()]
    memory.apply({})
    assert identical(memory, before)
    assert [tensor.data_ptr() for tensor in memory.state()] == pointers


@pytest.mark.unit
def test_what_is_kept_is_kept_bit_for_bit_without_reindexing():
    memory, _ = toy(keep_written=True)
    before = [layer.keys.clone() for layer in memory]
    memory.apply({2: memory[2].keeping(torch.tensor([1, 6]))})
    assert torch.equal(memory[2].keys, before[2][:, :, [0, 1, 2, 4, 9]])
    assert torch.equal(memory[0].keys, before[0])


@pytest.mark.unit
@pytest.mark.parametrize(
    ("layer", "keep"),
    [
        (7, torch.arange(4)[None, None]),
        (1, torch.tensor([[[0, 1, 2, 99]]])),
        (1, torch.tensor([[[0, 1, 2, 5, 4]]])),
        (1, torch.tensor([[[0, 1, 2, 4, 4]]])),
        (1, torch.tensor([[[1, 2, 4]]])),
        (1, torch.arange(3).expand(1, 5, 3)),
    ],
    ids=["no such layer", "out of range", "not ascending", "twice", "no prefix", "five heads"],
)
def test_an_update_that_fails_leaves_the_memory_as_it_was(layer, keep):
    memory, plain = toy()
    before = cloned(memory)
    updates = {0: memory[0].keeping(torch.tensor([1, 6])), layer: LayerUpdate(keep)}
    with pytest.raises((HermesError, IndexError, RuntimeError)):
        memory.apply(updates, compact=True)
    assert identical(memory, before)
    write(memory, plain, 4, 500)
    check(memory, plain)
