"""Reading a memory, its copies and files, and what rounding does to it."""

from __future__ import annotations

import json
import random

import pytest
import torch

from hermes.attention import reading
from hermes.errors import HermesError, InputError
from hermes.memory import KVMemory, LayerUpdate, load_memory
from hermes.tokens import Provenance
from tests.support.memory_cases import check, random_update, toy, write
from tests.support.references import (
    PlainMemory,
    cloned,
    identical,
    toy_rotary,
)
from tests.support.tolerances import TOLERANCES

# -- reading, copies and files -------------------------------------------------------------------------------


@pytest.mark.unit
def test_what_a_memory_says_of_itself():
    memory = KVMemory(2, toy_rotary(1))
    assert (memory.batch_size, memory.lengths, memory.largest_position(), memory.memory_bytes) == (
        0,
        [0, 0],
        -1.0,
        0,
    )
    memory, _ = toy(batch=2, layers=2)
    assert memory.batch_size == 2
    assert memory.lengths == [11, 11]
    assert memory.largest_position() == 10
    assert memory.get_seq_length() == memory.next_position == 11
    # keys and values, positions (float32), provenance (8 int64), the clock
    assert memory.memory_bytes == 2 * (2 * 2 * 2 * 11 * 8 * 4 + 2 * 11 * 4 + 8 * 2 * 11 * 8 + 2 * 4)


@pytest.mark.unit
def test_a_fork_shares_and_does_not_disturb():
    memory, plain = toy(keep_written=True)
    memory.apply({1: memory[1].keeping(torch.tensor([2, 5]))})
    before = cloned(memory)
    fork = memory.fork()
    assert all(a is b for a, b in zip(fork.state(), memory.state(), strict=True))
    write(fork, [PlainMemory(3, 2, 8, 1)], 4, 900)
    fork.apply({0: fork[0].keeping(torch.tensor([1]))}, compact=True)
    assert identical(memory, before)
    assert (memory.lengths, fork.lengths) == ([11, 5, 11], [4, 9, 15])
    for stream in plain:
        stream.apply({1: LayerUpdate(torch.tensor([[[0, 1, 2, 5, 8]]]))}, False)
    write(memory, plain, 3, 700)
    check(memory, plain)


@pytest.mark.unit
def test_beams_of_two_streams_keep_their_clocks():
    memory, _ = toy(batch=2)
    memory.apply({1: memory[1].keeping(torch.tensor([[[1, 7]], [[0, 2]]]))})
    keys, values = torch.randn(2, 2, 2, 1, 8)
    plain, beams = memory.fork(), memory.fork()
    beams.batch_repeat_interleave(3)
    with reading(plain) as scope:
        scope.attended = True
        once = [plain.update(keys, values, layer.index)[0] for layer in plain]
    with reading(beams) as scope:
        scope.attended = True
        thrice = [beams.update(*(x.repeat_interleave(3, 0) for x in (keys, values)), i)[0] for i in range(3)]
    assert memory[1].to_shared_clock is not None
    assert memory[1].to_shared_clock[0].shape[0] == 2
    for one, many in zip(once, thrice, strict=True):
        assert torch.equal(many, one.repeat_interleave(3, 0))


@pytest.mark.unit
def test_pending_tokens_are_dropped_on_rollback():
    memory, _ = toy()
    before = cloned(memory)
    with reading(memory) as scope:
        scope.attended = True  # keys are written by hand here
        memory.update(torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), 0)
        memory.update(torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), 1)
    assert [layer.pending for layer in memory] == [4, 4, 0]
    assert memory.get_seq_length() == 15
    memory.rollback()
    assert identical(memory, before)
    assert [layer.pending for layer in memory] == [0, 0, 0]
    empty = KVMemory(1, toy_rotary(1))
    empty.update(torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), 0)
    empty.rollback()
    assert empty.lengths == [0]
    assert empty.get_seq_length() == 0
    write(empty, [PlainMemory(1, 2, 8, 1)], 2, 5)
    assert empty.lengths == [2]


@pytest.mark.unit
def test_a_reset_memory_is_a_new_one():
    memory, _ = toy(keep_written=True)
    memory.apply({1: memory[1].keeping(torch.tensor([2, 5]))}, compact=True)
    memory.reset()
    assert memory.state() == []
    fresh = [PlainMemory(3, 2, 8, 1)]
    write(memory, fresh, 3, 0, prefix=True)
    write(memory, fresh, 5, 100)
    check(memory, fresh)


@pytest.mark.unit
def test_layers_at_different_clocks_are_written_inside_reading_only():
    memory, _ = toy()
    memory.apply({1: memory[1].keeping(torch.tensor([0, 1]))})
    with pytest.raises(HermesError, match=r"hermes\.attention\.reading"):
        memory.update(torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8), 1)


@pytest.mark.unit
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("keep_written", [False, True])
def test_a_saved_memory_comes_back(tmp_path, axes, keep_written):
    rng = random.Random(3)
    memory, plain = toy(axes, batch=2, keep_written=keep_written)
    memory.layers[1].has_protected = True
    for compact in (False, True):
        updates = {i: random_update(rng, memory[i], heads=2, mix="summary", batch=2) for i in (0, 2)}
        memory.apply(updates, compact=compact)
        for stream in plain:
            stream.apply(updates, compact)
    memory.save(tmp_path / "deep" / "folder")
    loaded = load_memory(tmp_path / "deep" / "folder", memory.rotary)
    assert identical(loaded, cloned(memory))
    assert [layer.has_protected for layer in loaded] == [False, True, False]
    write(loaded, plain, 4, 800)
    check(loaded, plain)
    # The next summaries are not mistaken for the ones held.
    updates = {i: random_update(rng, loaded[i], heads=2, mix="summary", batch=2) for i in (0, 2)}
    loaded.apply(updates)
    for stream in plain:
        stream.apply(updates, False)
    check(loaded, plain)
    assert {path.name for path in (tmp_path / "deep" / "folder").iterdir()} == {
        "memory.json",
        "memory.safetensors",
    }


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_saved_memory_keeps_its_dtype(tmp_path, dtype):
    memory = KVMemory(1, toy_rotary(1))
    memory.update(torch.randn(1, 2, 3, 8).to(dtype), torch.randn(1, 2, 3, 8).to(dtype), 0)
    memory.commit(torch.arange(3.0)[None], Provenance.text(3), 3)
    memory.save(tmp_path)
    assert identical(load_memory(tmp_path, memory.rotary), cloned(memory))


@pytest.mark.unit
def test_what_cannot_be_saved_or_loaded_is_refused(tmp_path):
    memory, _ = toy()
    with pytest.raises(InputError, match="no saved memory"):
        load_memory(tmp_path, memory.rotary)
    with reading(memory) as scope:
        scope.attended = True  # keys are written by hand here
        memory.update(torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), 0)
    with pytest.raises(HermesError, match="pending"):
        memory.save(tmp_path)
    assert not any(tmp_path.iterdir())
    memory.rollback()
    memory.save(tmp_path)
    json.loads((tmp_path / "memory.json").read_text())
    with pytest.raises(InputError, match="axes"):
        load_memory(tmp_path, toy_rotary(3))


# -- rounding ------------------------------------------------------------------------------------------------


def drift(dtype: torch.dtype, keep_written: bool, steps: int = 300) -> float:
    """Relative error of a key after as many eager re-indexings, each of which moves it by one."""
    memory = KVMemory(1, toy_rotary(1, half=8), keep_written=keep_written)
    positions = torch.arange(steps + 1).expand(1, 1, 1, -1).float()
    keys = torch.randn(1, 1, steps + 1, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    memory.update(memory.rotary.rotate(keys, positions), keys, 0)
    memory.commit(positions[:, 0, 0], Provenance.text(steps + 1), steps + 1)
    for _ in range(steps):
        memory.apply({0: LayerUpdate(torch.arange(1, memory.lengths[0])[None, None])}, compact=True)
    assert memory[0].positions.flatten().tolist() == [0.0]
    return float((memory[0].keys[0, 0, 0] - keys[0, 0, -1]).float().norm() / keys[0, 0, -1].float().norm())


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_keys_kept_as_written_do_not_drift(dtype):
    allowed = TOLERANCES["rotation", dtype] / 4
    assert drift(dtype, keep_written=True) < allowed
    assert drift(dtype, keep_written=False) > allowed


@pytest.mark.unit
def test_float32_keys_hardly_drift():
    assert drift(torch.float32, keep_written=False) < TOLERANCES["rotation", torch.float32]


def test_an_empty_memory_cannot_evict():
    memory = KVMemory(2, toy_rotary(1))
    with pytest.raises(HermesError, match="layer 1 of the memory is empty"):
        memory.apply({1: LayerUpdate(torch.zeros(1, 1, 1, dtype=torch.int64))})


@pytest.mark.parametrize("chosen", [[1], [0, 2], [2, 0], [0, 1, 2]])
@pytest.mark.parametrize("keep_written", [False, True])
def test_some_streams_of_a_batch_are_those_streams(chosen, keep_written):
    memory = KVMemory(2, toy_rotary(3), keep_written=keep_written)
    plain = [PlainMemory(2, 2, 8, 3, stream) for stream in range(3)]
    write(memory, plain, 3, 0, prefix=True)
    write(memory, plain, 6, 100)
    memory.apply({1: LayerUpdate(torch.tensor([[[0, 1, 2, 4]], [[0, 1, 2, 5]], [[0, 1, 2, 8]]]))})
    other = memory.select(chosen)
    assert other.batch_size == len(chosen)
    assert other.next_position >= max(int(layer.clock.max()) for layer in other)
    for layer, whole in zip(other, memory, strict=True):
        for place, stream in enumerate(chosen):
            assert torch.equal(layer.keys[place], whole.keys[stream])
            assert torch.equal(layer.values[place], whole.values[stream])
            assert torch.equal(layer.positions[:, place], whole.positions[:, stream])
            assert torch.equal(layer.origin.table[:, place], whole.origin.table[:, stream])
            assert torch.equal(layer.clock[place], whole.clock[stream])
            if keep_written:
                assert torch.equal(layer.written[0][place], whole.written[0][stream])
                assert torch.equal(layer.written[1][:, place], whole.written[1][:, stream])


def test_the_first_of_several_wrong_layers_is_named():
    memory = KVMemory(3, toy_rotary(1))
    write(memory, [PlainMemory(3, 2, 8, 1)], 5, 0)
    wrong = LayerUpdate(torch.tensor([[[3, 2]]]))
    with pytest.raises(HermesError, match="layer 1 "):
        memory.apply({0: memory[0].keeping(torch.tensor([1])), 1: wrong, 2: wrong})
