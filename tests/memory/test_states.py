"""Layers that no policy manages: what forks, rollbacks, selections, saves and re-indexing make of them."""

from __future__ import annotations

import json
import random

import pytest
import torch

from hermes.attention import (
    AttentionProbe,
    AttentionView,
    memory_attention,
    memory_attention_set,
    reading,
)
from hermes.errors import HermesError, InputError
from hermes.memory import KVMemory, LayerSpec, load_memory, load_record, memory_of
from hermes.session.memory_map import held_frames, memory_map
from hermes.tokens import Provenance
from tests.support.memory_cases import random_update
from tests.support.references import cloned, identical, new_memory, noise_chunk, prefill, rope, toy_rotary
from tests.support.tiny_qwen3_5 import tiny_hybrid
from tests.support.tolerances import close

pytestmark = pytest.mark.model


def filled(batch: int = 1, **options) -> KVMemory:
    backbone = tiny_hybrid()
    memory = new_memory(backbone, **options)
    for seed, length in ((0, 5), (1, 20)):
        prefill(
            backbone, memory, noise_chunk(backbone, length, seed, text=not seed, batch=batch), prefix=not seed
        )
    return memory


def ragged(memory: KVMemory, batch: int = 1) -> KVMemory:
    rng = random.Random(0)
    memory.apply({layer.index: random_update(rng, layer, batch=batch) for layer in memory}, compact=True)
    return memory


def test_layers_lie_in_their_order_and_policies_count_the_managed_ones():
    memory = filled()
    assert len(memory.layers) == 8
    assert len(memory) == len(memory.lengths) == 2 == len([*memory])
    assert [(layer.index, layer.number) for layer in memory] == [(0, 3), (1, 7)]
    assert memory.layers[7] is memory[1]
    assert "8 layers (2 x (3 recurrent, 1 managed)), 25 tokens each" in repr(memory)
    kinds = memory.bytes_by_kind()
    assert set(kinds) == {"managed", "recurrent"}
    assert sum(kinds.values()) == memory.memory_bytes == sum(x.nbytes for x in memory.state())
    with pytest.raises(HermesError, match="layer 2 of a memory of 2 layers"):
        memory.apply({2: memory[0].keeping(torch.arange(3))})


def test_a_fork_costs_nothing_and_neither_writes_to_the_other():
    memory, backbone = filled(), tiny_hybrid()
    fork, before = memory.fork(), cloned(memory)
    assert all(a is b for a, b in zip(memory.state(), fork.state(), strict=True))
    prefill(backbone, fork, noise_chunk(backbone, 1, 5))
    assert identical(memory, before)
    changed = cloned(fork)
    prefill(backbone, memory, noise_chunk(backbone, 7, 6))
    assert identical(fork, changed)
    # Both go on as a memory that was never forked.
    alone = filled()
    prefill(backbone, alone, noise_chunk(backbone, 7, 6))
    assert identical(alone, cloned(memory))


@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("started", [False, True])
def test_a_forward_that_fails_leaves_no_trace(length, started):
    backbone = tiny_hybrid()
    memory = filled() if started else new_memory(backbone)
    before, chunk = cloned(memory), noise_chunk(backbone, length, 5)
    handle = backbone.decoder.layers[6].register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                prefill(backbone, memory, chunk)
            memory.rollback()
            assert identical(memory, before)
    finally:
        handle.remove()
    again = filled() if started else new_memory(backbone)
    for one in (memory, again):
        prefill(backbone, one, chunk)
    assert identical(again, cloned(memory))


def test_streams_of_a_batch_are_selected_with_their_states():
    backbone, memory = tiny_hybrid(), ragged(filled(batch=3), batch=3)
    chunk = noise_chunk(backbone, 6, 9, batch=3)
    one = memory.select([1])
    assert one.batch_size == 1
    two = memory.select([2, 0])
    prefill(backbone, memory, chunk)
    for some, rows in ((one, [1]), (two, [2, 0])):
        part = noise_chunk(backbone, 6, 9, batch=3)
        part = type(part)(**{**vars(part), "embeds": part.embeds[rows]})
        prefill(backbone, some, part)
        for ours, expected in zip(some.states, memory.select(rows).states, strict=True):
            for name, tensor in ours.tensors().items():
                close("one_shot", tensor, expected.tensors()[name])


def test_a_reset_forgets_states():
    backbone, memory = tiny_hybrid(), filled()
    memory.reset()
    assert memory.state() == []
    fresh = filled()
    for seed, length in ((0, 5), (1, 20)):
        chunk = noise_chunk(backbone, length, seed, text=not seed)
        prefill(backbone, memory, chunk, prefix=not seed)
    assert identical(fresh, cloned(memory))


def test_beams_repeat_and_reorder_states():
    memory = filled()
    memory.batch_repeat_interleave(2)
    assert all(tensor.shape[0] == 2 for state in memory.states for tensor in state.tensors().values())
    for state in memory.states:
        state.conv_states[0][1] += 1
    memory.reorder_cache(torch.tensor([1, 1]))
    for state in memory.states:
        assert torch.equal(state.conv_states[0][0], state.conv_states[0][1])


@pytest.mark.parametrize("batch", [1, 2])
def test_saved_and_read_back_it_goes_on_bit_for_bit(tmp_path, batch):
    backbone, memory = tiny_hybrid(), ragged(filled(batch=batch), batch=batch)
    memory.save(tmp_path)
    loaded = load_memory(tmp_path, memory.rotary)
    assert loaded.specs == memory.specs
    assert identical(loaded, cloned(memory))
    for one in (memory, loaded):
        prefill(backbone, one, noise_chunk(backbone, 6, 9, batch=batch))
    assert identical(loaded, cloned(memory))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda record: record["kinds"].pop(), "kinds: they do not fit"),
        (lambda record: record["states"].pop(), "kinds: they do not fit"),
        (lambda record: record["kinds"][0].update(kind="rolling"), "kind"),
        (lambda record: record["kinds"][0].update(states=10**9), "kinds.0"),
        (lambda record: record["kinds"][0].update(kind="window"), "kinds.0"),
        (lambda record: record["kinds"][0].update(kind="shared", source=0), "kinds.0"),
        (lambda record: record.update(kinds=[], states=[]), "a tensor of a layer that there is not"),
    ],
)
def test_a_record_that_lies_about_its_layers_is_refused(tmp_path, edit, message):
    memory = filled()
    memory.save(tmp_path)
    record = load_record(tmp_path)
    edit(record)
    with pytest.raises(InputError, match=message):
        memory_of(tmp_path, json.loads(json.dumps(record)), memory.rotary)


def test_a_memory_of_other_kinds_is_refused(tmp_path):
    memory = filled()
    memory.save(tmp_path)
    with pytest.raises(InputError, match=r"2 x .3 recurrent, 1 managed., this decoder has 2 managed"):
        memory_of(tmp_path, load_record(tmp_path), memory.rotary, specs=[LayerSpec("managed")] * 2)


def test_the_map_shows_tokens_at_their_decoder_layers(tmp_path):
    memory = filled()
    assert {cell.layer for cell in held_frames(memory)} == {3, 7}
    table = memory_map(memory, tmp_path / "map.png", tiers={"sensory": range(1), "long_term": range(1, 2)})
    assert {line.split(",")[0] for line in table.read_text().splitlines()[1:]} == {"3", "7"}


# -- windows ----------------------------------------------------------------------------------------------


def windowed(window: int = 4) -> KVMemory:
    return KVMemory(
        [LayerSpec("window", window=window), LayerSpec("managed"), LayerSpec("shared", source=0)],
        toy_rotary(1),
        window_rotary=toy_rotary(1, half=2),
    )


def write(memory: KVMemory, keys: torch.Tensor) -> None:
    """The same keys, before rotation, into both layers at the shared clock, as a model would."""
    count = keys.shape[0]
    at = memory.next_position + torch.arange(float(count))[None]
    with reading(memory) as scope:
        for number, rotary in ((0, memory.layers[0].rotary), (1, memory.rotary)):
            width = 2 * len(rotary.frequencies)
            turned = rope(keys[:, :width], at, rotary.frequencies.tolist(), rotary.axis.tolist())
            scope.attended = True
            memory.update(turned.float()[None, None], keys[None, None, :, :width], number)
    memory.commit(torch.arange(float(count))[None], Provenance.text(count, first_id=10), count)


@pytest.mark.parametrize("compact", [False, True])
def test_keys_of_a_window_keep_their_distances_when_positions_are_reindexed(compact):
    memory, keys = windowed(), torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    write(memory, keys[:9])
    assert (memory.layers[0].cumulative_length, memory.layers[0].keys.shape[2]) == (9, 3)
    memory.apply({0: memory[0].keeping(torch.tensor([0, 4, 5]))}, compact=compact)
    assert memory.next_position == (3 if compact else 6)
    write(memory, keys[9:])
    window = memory.layers[0]
    assert window.cumulative_length == 12
    at = memory.next_position - 3 + torch.arange(3.0)[None]
    rotary = window.rotary
    expected = rope(keys[9:, :4], at, rotary.frequencies.tolist(), rotary.axis.tolist()).float()
    close("rotation", window.keys[0, 0], expected)
    assert torch.equal(window.values[0, 0], keys[9:, :4])


def test_a_window_is_saved_rolled_back_and_counts_its_own_tokens(tmp_path):
    memory, keys = windowed(), torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    write(memory, keys[:9])
    memory.apply({0: memory[0].keeping(torch.tensor([0, 8]))}, compact=True)
    before = cloned(memory)
    memory.save(tmp_path)
    loaded = load_memory(tmp_path, memory.rotary, window_rotary=memory.layers[0].rotary)
    assert identical(loaded, before)
    assert loaded.layers[0].cumulative_length == 9
    assert loaded.next_position == memory.next_position == 2
    # Where a mask starts: the shared clock, and for the window its own count.
    assert memory.get_seq_length() == memory.get_query_offset(1) == 2
    assert memory.get_query_offset(0) == 9
    assert memory.get_mask_sizes(2, 0) == (5, 6)
    assert memory.get_mask_sizes(2, 1) == (2, 2)
    with reading(memory):
        memory.update(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4), 0)
    memory.rollback()
    assert identical(memory, before)
    assert memory.layers[0].cumulative_length == 9
    for edit, message in (({"keys": before[0]}, "missing"), ({}, "missing")):
        with pytest.raises(InputError, match=message):
            windowed().layers[0].load({"seen": 9}, edit)


def test_a_shared_layer_reads_its_source():
    memory = windowed()
    assert memory.read_by(2) is memory.layers[0]
    assert memory.last_written == 1
    assert memory.bytes_by_kind() == {"window": 0, "managed": 0}
    with pytest.raises(InputError, match="holds none"):
        memory.layers[2].load({}, {"keys": torch.ones(1)})


def test_outside_of_reading_a_memory_with_states_is_refused():
    backbone, memory = tiny_hybrid(), filled()
    fork = memory.fork()
    with memory_attention_set(backbone.model), pytest.raises(HermesError, match="reading"):
        backbone.run(backbone.embed(torch.ones(1, 2, dtype=torch.long)), torch.zeros(3, 2), fork)


class _Seen(AttentionProbe):
    def __init__(self) -> None:
        self.views: list[int] = []

    def observe(self, view: AttentionView) -> None:
        self.views.append(view.index)


def test_a_shared_layer_attends_at_the_clock_of_its_source():
    specs = [LayerSpec("managed"), LayerSpec("managed"), LayerSpec("shared", source=0)]
    memory = KVMemory(specs, toy_rotary(1))
    generator = torch.Generator().manual_seed(0)
    keys, query = (torch.randn(1, 1, count, 8, generator=generator) for count in (6, 2))
    with reading(memory) as scope:
        scope.attended = True
        for number in (0, 1):
            memory.update(keys, keys, number)
    memory.commit(torch.arange(6.0)[None], Provenance.text(6), 6)
    # The source alone falls behind.
    memory.apply({0: memory[0].keeping(torch.tensor([0, 2]))})
    assert memory[0].to_shared_clock is not None
    assert memory[1].to_shared_clock is None
    seen, found = _Seen(), []
    with reading(memory, seen):
        new = torch.randn(1, 1, 2, 8, generator=generator)
        held = memory.update(new, new, 0)
        for number in (0, 2, 1):
            parts = memory.update(new, new, 1) if number == 1 else held
            module = torch.nn.Identity()
            module.layer_idx = number
            found.append(memory_attention(module, query, *parts, None, 0.3)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    # Attention of a layer that borrows is nobody's: policies see managed layers.
    assert seen.views == [0, 1]
