"""An archive that grows for a day: what is there is not copied again and again, and nothing else is held."""

from __future__ import annotations

import math
import os

import pytest
import torch

from hermes.kernels import Kernels
from hermes.memory import KVMemory
from hermes.policy import Archive, Store
from hermes.tokens import Provenance, Rotary

ROTARY = Rotary(torch.tensor([1.0, 0.1]), torch.tensor([0, 0]), axes=1)
TOKENS = 4


def chunk(number: int, frames: int) -> KVMemory:
    """A memory of two layers that holds one chunk."""
    memory = KVMemory(2, ROTARY, kernels=Kernels("torch"))
    count, draw = frames * TOKENS, torch.Generator().manual_seed(number)
    first = number * count
    table = Provenance.of(count, id=torch.arange(first, first + count), frame=torch.arange(count) // TOKENS)
    for layer in memory:
        keys, values = (torch.randn(1, 2, count, 4, generator=draw) for _ in range(2))
        layer.keys, layer.values = keys, values
        layer.positions = torch.arange(first, first + count).float().expand(1, 1, 1, count)
        layer.tokens = Provenance(table.table[:, None, None])
    return memory


def grown(store: Store, chunks: int, frames: int = 2) -> tuple[Archive, int, int]:
    """An archive of so many chunks, how often its index moved, and the slabs of its first layer."""
    archive, moved, at = Archive(store, 2), 0, 0
    slots, sizes = torch.arange(frames * TOKENS)[None, None], [TOKENS] * frames
    for number in range(chunks):
        archive.add(chunk(number, frames), dict.fromkeys(range(2), slots), dict.fromkeys(range(2), sizes))
        moved += archive.index(0).data_ptr() != at
        at = archive.index(0).data_ptr()
    return archive, moved, len(archive._slabs[0])


@pytest.mark.parametrize("precision", ["exact", "int4"])
def test_growing_copies_little_and_holds_what_it_reports(precision: str) -> None:
    store = Store(precision=precision, group=3)
    archive, moved, slabs = grown(store, 600)
    # Each is a quarter larger than all before.
    most = math.log(600, 1.25) + 8
    assert moved <= most
    assert slabs <= most
    held = sum(x.nbytes for own in archive._slabs for slab in own for x in slab.fields.values())
    assert archive.archived_bytes <= held <= 1.3 * archive.archived_bytes + 4096
    assert len(archive.sizes[0]) == len(archive.newest[0]) == archive.index(0).shape[1] == 1200
    assert archive.last == [600 * 2 * TOKENS - 1] * 2


@pytest.mark.parametrize("store", [Store(), Store(precision="int8", group=3), Store("disk")], ids=str)
def test_every_block_is_read_as_from_an_archive_of_its_chunk_alone(store: Store) -> None:
    archive, *_ = grown(store, 60, frames=3)
    kept, again = archive.state(), Archive(store, 2)
    again.restore(kept)
    for number in (0, 1, 7, 33, 58, 59):
        alone = Archive(store, 2)
        slots = torch.arange(3 * TOKENS)[None, None]
        alone.add(chunk(number, 3), dict.fromkeys(range(2), slots), dict.fromkeys(range(2), [TOKENS] * 3))
        for one in (archive, again):
            for at in range(2):
                wanted, found = alone.read(at, range(3)), one.read(at, range(3 * number, 3 * number + 3))
                for ours, theirs in zip(found, wanted, strict=True):
                    assert torch.equal(ours.keys, theirs.keys)
                    assert torch.equal(ours.values, theirs.values)
                    assert torch.equal(ours.origin.table, theirs.origin.table)
                assert torch.equal(alone.index(at), one.index(at)[:, 3 * number : 3 * number + 3])
    assert again.archived_bytes == archive.archived_bytes
    assert again.last == archive.last
    # What was taken up grows on.
    again.add(chunk(60, 3), dict.fromkeys(range(2), slots), dict.fromkeys(range(2), [TOKENS] * 3))
    assert len(again.sizes[1]) == 183
    assert torch.allclose(again.read(1, [180])[0].keys, chunk(60, 3)[1].keys[:, :, :TOKENS], atol=0.05)


def test_files_of_an_archive_are_not_forced_to_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go with the process: no chunk waits for the disk, or looks at the files before it."""
    waited: list[object] = []
    for name in ("fsync", "scandir", "listdir"):
        monkeypatch.setattr(os, name, waited.append)
    archive, *_ = grown(Store("disk"), 5)
    assert not waited
    assert archive._files == 5
