"""The memory against plain references: ragged layers and heads, mixes, re-indexing, copies, failures."""

from __future__ import annotations

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.attention import attending
from hermes.errors import HermesError, InputError
from hermes.memory import KVMemory, LayerUpdate, Mix
from hermes.provenance import Kind, Provenance
from hermes.storage import load_memory
from tests.references import (
    FAMILIES,
    DenseDecoder,
    PlainMemory,
    cloned,
    identical,
    new_memory,
    noise_chunk,
    prefill,
    rope,
    same_memory,
    tiny,
    toy_rotary,
)
from tests.tolerances import TOLERANCES, close

MIXES = ("none", "summary", "groups", "targets")


def sample(rng: random.Random, population, count: int) -> list[int]:
    return sorted(rng.sample(list(population), count))


def random_update(
    rng: random.Random, layer, *, heads: int = 1, mix: str = "none", batch: int = 1
) -> LayerUpdate:
    """A random choice of slots, other ones for every stream and head, and a random mix of the others."""
    rows = max(heads, layer.rows)
    count = rng.randint(1, layer.video_length)
    video = range(layer.prefix, layer.length)
    keep = [[[*range(layer.prefix), *sample(rng, video, count)] for _ in range(rows)] for _ in range(batch)]
    kept = torch.tensor(keep)
    evicted = [[[i for i in video if i not in row] for row in rows] for rows in keep]
    lost = layer.video_length - count
    if mix == "none" or lost == 0:
        return LayerUpdate(kept)
    if mix == "summary":
        weights = torch.rand(batch, rows, lost, generator=torch.Generator().manual_seed(rng.randrange(99)))
        return LayerUpdate(kept, Mix(torch.tensor(evicted), weights / weights.sum(-1, keepdim=True)))
    size = min(3, lost if mix == "groups" else count)
    members, groups = evicted, [[[*range(lost)] for _ in rows] for rows in keep]
    targets = None
    if mix == "targets":
        slots = [[sample(rng, row[layer.prefix :], size) for row in rows] for rows in keep]
        members = [[a + b for a, b in zip(t, e, strict=True)] for t, e in zip(slots, evicted, strict=True)]
        targets = torch.tensor(slots)
        groups = [[[*range(size + lost)] for _ in rows] for rows in keep]
    # The first of each group is given, so that none is empty.
    groups = [[[g if g < size else rng.randrange(size) for g in row] for row in rows] for rows in groups]
    of = torch.tensor(groups)
    weights = torch.rand(of.shape, generator=torch.Generator().manual_seed(rng.randrange(99))) + 0.1
    weights = weights / torch.zeros(batch, rows, size).scatter_add(2, of, weights).gather(2, of)
    return LayerUpdate(kept, Mix(torch.tensor(members), weights, of, size, targets))


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


def write(
    memory: KVMemory, plain: list[PlainMemory], length: int, first_id: int, prefix: bool = False
) -> None:
    """Random keys, as a forward pass at the shared clock would write them."""
    generator = torch.Generator().manual_seed(first_id)
    rotary, heads, width = memory.rotary, 2, 2 * len(memory.rotary.frequencies)
    positions = torch.arange(length).expand(rotary.axes, -1).float()
    if rotary.axes == 3 and not prefix:
        positions = torch.stack(
            (torch.arange(length) // 4 * 1.5, torch.arange(length) // 2 % 2, torch.arange(length) % 2)
        )
    frequencies, axes = rotary.frequencies.tolist(), rotary.axis.tolist()
    ids = torch.arange(first_id, first_id + length)
    with attending(memory) as scope:
        scope.attended = True  # keys are written by hand here
        for layer in memory:
            keys, values = torch.randn(2, len(plain), heads, length, width, generator=generator)
            shared = rope(keys, memory.next_position + positions, frequencies, axes).float()
            memory.update(shared, values, layer.index)
            for stream in plain:
                for head, held in enumerate(stream.layers[layer.index]):
                    where = positions + held.clock
                    held.write(
                        keys[stream.stream, head],
                        values[stream.stream, head],
                        where,
                        ids.tolist(),
                        [1] * length,
                    )
    advance = int(positions.max()) + 1
    memory.commit(
        positions,
        Provenance.of(length, id=ids, frame=ids // 4, kind=1, time_us=ids * 1000),
        advance,
        prefix=prefix,
    )
    for stream in plain:
        stream.prefix = memory.prefix


def toy(axes: int = 1, batch: int = 1, layers: int = 3, **options) -> tuple[KVMemory, list[PlainMemory]]:
    memory = KVMemory(layers, toy_rotary(axes), **options)
    plain = [PlainMemory(layers, 2, 8, axes, stream) for stream in range(batch)]
    write(memory, plain, 3, 0, prefix=True)
    write(memory, plain, 8, 100)
    return memory, plain


def check(memory: KVMemory, plain: list[PlainMemory]) -> None:
    for stream in plain:
        same_memory(memory, stream, memory.rotary.frequencies.tolist(), memory.rotary.axis.tolist())


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
    assert video.kind.tolist() == [[[1, 1, int(Kind.SUMMARY)]]]
    assert video.mass.tolist() == [[[1, 1, 6]]]
    assert video.frame.tolist() == [[[26, 26, 26]]]  # the latest of its members'
    assert video.time[0, 0, -1].item() == pytest.approx(0.1025)  # the mean of its members'
    half = Mix(torch.tensor([[[4, 5]]]), torch.tensor([[[0.5, 0.5]]]))
    memory.apply({0: LayerUpdate(torch.tensor([[[0, 1, 2, 3]]]), half)})
    assert memory[0].video.id.tolist() == [[[106, -3]]]
    assert memory[0].video.mass.tolist() == [[[1, 7]]]


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
    with attending(plain) as scope:
        scope.attended = True
        once = [plain.update(keys, values, layer.index)[0] for layer in plain]
    with attending(beams) as scope:
        scope.attended = True
        thrice = [beams.update(*(x.repeat_interleave(3, 0) for x in (keys, values)), i)[0] for i in range(3)]
    assert memory[1].turn is not None
    assert memory[1].turn[0].shape[0] == 2
    for one, many in zip(once, thrice, strict=True):
        assert torch.equal(many, one.repeat_interleave(3, 0))


@pytest.mark.unit
def test_pending_tokens_are_dropped_on_rollback():
    memory, _ = toy()
    before = cloned(memory)
    with attending(memory) as scope:
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
def test_layers_at_different_clocks_are_written_inside_attending_only():
    memory, _ = toy()
    memory.apply({1: memory[1].keeping(torch.tensor([0, 1]))})
    with pytest.raises(HermesError, match=r"hermes\.attention\.attending"):
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
    with attending(memory) as scope:
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
    memory.update(memory.rotary.turn(keys, positions), keys, 0)
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
