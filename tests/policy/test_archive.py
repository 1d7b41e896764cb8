"""The archive against loops: integers, blocks on the host and on disk, what is put back and reported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from hermes.backbone import BackboneConfig, load_backbone
from hermes.decoding.observer import DecoderObserver
from hermes.errors import SettingError
from hermes.evaluation.results.rows import AnswerRow
from hermes.memory import insert_blocks
from hermes.policies.fifo import Fifo
from hermes.policies.rekv import Rekv
from hermes.policy import Archive, Store, best, dequantise, quantise, run_lengths, similarity
from hermes.session.lockstep import BatchedSession
from hermes.session.session import StreamSession
from hermes.testing import Trial
from hermes.testing.trial import copy_state
from tests.support.asking import QUESTION, stream_and_ask
from tests.support.references import (
    FAMILIES,
    cloned,
    identical,
    new_memory,
    noise_chunk,
    prefill,
    rope,
    rope_settings,
    slow_quantise,
    tiny,
)
from tests.support.tolerances import close

unit, model = pytest.mark.unit, pytest.mark.model

# -- integers ------------------------------------------------------------------------------------------------


@unit
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("along", ["tokens", "channels"])
@pytest.mark.parametrize("group", [None, 3, 100])
def test_integers_are_the_nearest_levels(bits, along, group):
    x = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(bits))
    x[0, 0, :, 1] = 2.5  # a group of one value
    codes = quantise(x, bits, along, group)
    back = dequantise(codes, bits, along, 5, group)
    slow = torch.stack([torch.stack([slow_quantise(head, bits, along, group) for head in one]) for one in x])
    close("mix", back, slow)
    assert codes.codes.dtype == torch.uint8
    assert codes.codes.shape == (2, 3, 7, math.ceil(5 * bits / 8))


@unit
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_integers_keep_the_dtype(dtype):
    x = torch.randn(1, 2, 16, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    back = dequantise(quantise(x, 8, "tokens", 4), 8, "tokens", 8, 4)
    assert back.dtype == dtype
    spread = float(x.max() - x.min())
    assert float((back.float() - x.float()).abs().max()) < spread / 255 + spread * torch.finfo(dtype).eps


# -- blocks --------------------------------------------------------------------------------------------------


def filled(family: str = "llava_onevision", count: int = 12):
    backbone = tiny(family)
    memory = new_memory(backbone)
    prefill(backbone, memory, noise_chunk(backbone, 3, seed=1), prefix=True)
    prefill(backbone, memory, noise_chunk(backbone, count, seed=2))
    return backbone, memory


def stored(memory, store: Store, sizes=(5, 4, 3)) -> Archive:
    archive = Archive(store, len(memory.layers))
    slots = torch.arange(3, 3 + sum(sizes))[None, None]
    archive.add(memory, {layer.index: slots for layer in memory}, dict.fromkeys(range(10), sizes))
    return archive


@model
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_exact_blocks_come_back_bit_identical(place, tmp_path):
    _, memory = filled()
    archive = stored(memory, Store(place=place, folder=tmp_path))
    assert bool(list(tmp_path.rglob("*.safetensors"))) == (place == "disk")
    for layer in memory:
        for block, (start, stop) in zip(archive.read(layer.index, [0, 2]), [(3, 8), (12, 15)], strict=True):
            assert torch.equal(block.keys, layer.keys[:, :, start:stop])
            assert torch.equal(block.values, layer.values[:, :, start:stop])
            assert torch.equal(block.positions, layer.positions[..., start:stop])
            assert torch.equal(block.origin.table, layer.origin.table[..., start:stop])
    del archive
    assert not list(tmp_path.rglob("*.safetensors"))


@model
@pytest.mark.parametrize("values", ["channels", "tokens"])
@pytest.mark.parametrize("precision", ["int8", "int4", "int2"])
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_integer_blocks_are_those_of_each_block_alone(place, precision, values, tmp_path):
    _, memory = filled()
    bits = int(precision[3:])
    archive = stored(memory, Store(place, tmp_path, precision, 4, values))
    layer = memory[7]
    for block, (start, stop) in zip(archive.read(7, [0, 1, 2]), [(3, 8), (8, 12), (12, 15)], strict=True):
        for head in range(2):
            slow = slow_quantise(layer.keys[0, head, start:stop], bits, "tokens", 4)
            close("one_shot_keys", block.keys[0, head], slow)
            slow = slow_quantise(layer.values[0, head, start:stop], bits, values, 4)
            close("mix", block.values[0, head], slow)


@model
def test_bytes_are_counted_exactly():
    _, memory = filled()
    width = memory[0].keys.shape[-1]
    exact = stored(memory, Store())
    # 12 tokens in 10 layers: keys and values of 2 heads, one position, eight columns of origin.
    rest = 12 * 10 * (4 + 8 * 8)
    assert exact.archived_bytes == 12 * 10 * 2 * 2 * width * 4 + rest
    assert exact.resident_bytes == 3 * 10 * 2 * width * 4
    four = stored(memory, Store(precision="int4", group=None))
    codes = 12 * 10 * 2 * 2 * width // 2
    # A minimum and a step for each channel of each of 3 blocks, and for each of 12 tokens.
    assert four.archived_bytes == codes + 10 * 2 * (3 * width + 12) * 2 * 4 + rest


@model
@pytest.mark.parametrize("family", FAMILIES)
def test_the_index_is_the_mean_key_without_its_rotation(family):
    backbone, memory = filled(family)
    archive, settings = stored(memory, Store()), rope_settings(backbone)
    for layer in memory:
        for number, (start, stop) in enumerate([(3, 8), (8, 12), (12, 15)]):
            for head in range(2):
                plain = rope(
                    layer.keys[0, head, start:stop], -layer.positions[:, 0, 0, start:stop], *settings
                )
                close("kept_keys", archive.index(layer.index)[0, number, head], plain.mean(0).float())


@model
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_put_back_is_rope_from_scratch_at_contiguous_positions(family):
    backbone, memory = filled(family)
    archive, settings = stored(memory, Store()), rope_settings(backbone)
    before, fork = cloned(memory), memory.fork()
    wanted = {layer.index: [0, 2] if layer.index % 2 else [1] for layer in memory}
    insert_blocks(
        fork,
        {at: archive.read(at, numbers) for at, numbers in wanted.items()},
        {at: torch.tensor([[[12, 14]]]) for at in wanted},
    )
    assert identical(memory, before)
    spans = {0: range(3, 8), 1: range(8, 12), 2: range(12, 15)}
    for layer, old in zip(fork, memory, strict=True):
        pieces = [list(spans[number]) for number in wanted[layer.index]] + [[12, 14]]
        assert layer.length == 3 + sum(map(len, pieces))
        assert torch.equal(layer.keys[:, :, :3], old.keys[:, :, :3])
        slot, clock = 3, int(old.positions[..., :3].max()) + 1
        for piece in pieces:
            top = clock
            for axis in range(backbone.axes):
                places = [float(old.positions[axis, 0, 0, i]) for i in piece]
                ranks = [clock + sorted(set(places)).index(place) for place in places]
                assert layer.positions[axis, 0, 0, slot : slot + len(piece)].tolist() == ranks
                top = max(top, *ranks)
            clock = top + 1
            for i in piece:
                for head in range(2):
                    plain = rope(old.keys[0, head, i : i + 1], -old.positions[:, 0, 0, i : i + 1], *settings)
                    turned = rope(plain, layer.positions[:, 0, 0, slot : slot + 1], *settings)[0]
                    close("one_shot_keys", layer.keys[0, head, slot], turned.float())
                assert torch.equal(layer.values[:, :, slot], old.values[:, :, i])
                slot += 1
        assert float(layer.clock) == clock
    assert fork.next_position == max(int(layer.clock.max()) for layer in fork)


@model
@pytest.mark.parametrize("family", FAMILIES)
def test_queries_are_the_projections_before_rotation(family):
    asked = stream_and_ask(Rekv(budget=40), family)
    session = asked.session
    found = DecoderObserver(session.backbone, session.memory).queries(QUESTION)
    for ours, plain in zip(found, asked.queries, strict=True):
        close("kept_keys", ours[0], plain)


@unit
def test_blocks_are_chosen_best_first_within_the_budget():
    scores, sizes = [0.3, 0.9, 0.1, 0.9, 0.5], [4, 4, 4, 4, 4]
    assert best(scores, sizes, 12) == [1, 3, 4]
    assert best(scores, sizes, 15) == [1, 3, 4]
    assert best(scores, sizes, 1) == [1]
    assert best(scores, sizes, 0, count=4) == [0, 1, 3, 4]
    assert best([], [], 9) == []
    assert run_lengths(torch.tensor([5])) == [1]
    assert run_lengths(torch.tensor([], dtype=torch.int64)) == []


@unit
@pytest.mark.parametrize("measure", ["dot", "cosine"])
@pytest.mark.parametrize("per_head", [False, True])
def test_similarity_is_that_of_loops(measure, per_head):
    query, index = torch.randn(2, 6), torch.randn(5, 2, 6)
    scores = similarity(query, index, measure, per_head)
    for number, score in enumerate(scores):
        pairs = [(query[h], index[number, h]) for h in range(2)]
        if not per_head:
            pairs = [(query.flatten(), index[number].flatten())]
        each = []
        for q, k in pairs:
            product = sum(float(a) * float(b) for a, b in zip(q, k, strict=True))
            length = math.dist(q, torch.zeros(len(q))) * math.dist(k, torch.zeros(len(k)))
            each.append(product / length if measure == "cosine" else product)
        assert score == pytest.approx(sum(each) / len(each), rel=1e-4, abs=1e-5)


# -- in a stream ---------------------------------------------------------------------------------------------


@model
def test_a_stream_reports_its_archive_as_it_grows():
    session = StreamSession(tiny("llava_onevision"), Rekv(budget=40), chunk_frames=4)
    held, kept = [], []
    for start in range(0, 20, 4):
        session.feed(Trial("full").frames(20)[start : start + 4])
        held.append(session.stats().archived_bytes)
        kept.append(session.memory.lengths[0] - session.memory.prefix)
    answer = session.ask(QUESTION, max_new_tokens=2)
    assert held[0] == 0
    assert all(later - earlier == held[2] - held[1] > 0 for earlier, later in pairwise(held[1:]))
    assert max(kept) <= 40
    assert answer.archived_bytes == held[-1] == session.policy.archived.archived_bytes
    assert answer.memory_bytes == session.memory.memory_bytes + session.policy.archived.resident_bytes
    assert session.policy.archived.resident_bytes > 0
    session.reset()
    assert session.stats().archived_bytes == 0


@model
def test_policies_without_an_archive_report_none():
    session = Trial("fifo").streamed(2)
    answer = session.ask(QUESTION, max_new_tokens=2)
    assert (answer.archived_bytes, session.stats().archived_bytes) == (0, 0)
    assert answer.memory_bytes == session.memory.memory_bytes


@unit
def test_rows_written_before_there_were_archives_can_be_read():
    assert AnswerRow.__dataclass_fields__["archived_bytes"].default == 0


@model
@pytest.mark.parametrize("store", [Store(), Store("disk", precision="int4")], ids=["exact", "disk, int4"])
def test_a_saved_stream_takes_its_archive_along(store, tmp_path):
    frames = Trial("full").frames(24)
    whole = StreamSession(tiny("llava_onevision"), Rekv(budget=40, store=store), chunk_frames=4)
    whole.feed(frames[:16])
    whole.save(tmp_path / "saved")
    again = StreamSession(tiny("llava_onevision"), Rekv(budget=40, store=store), chunk_frames=4)
    again.resume(tmp_path / "saved")
    assert again.stats().archived_bytes == whole.stats().archived_bytes > 0
    for session in (whole, again):
        session.feed(frames[16:])
    one, other = (session.ask(QUESTION, max_new_tokens=4) for session in (whole, again))
    assert one.ids.tolist() == other.ids.tolist()
    assert (one.archived_bytes, one.memory_bytes) == (other.archived_bytes, other.memory_bytes)
    assert identical(whole.memory, cloned(again.memory))


@model
def test_streams_with_an_archive_do_not_go_in_lockstep():
    with pytest.raises(SettingError, match="streams"):
        BatchedSession(tiny("llava_onevision"), Rekv(budget=40), 2)


@dataclass
class Alternates(Fifo):
    """Keeps every second token, and goes on counting where the last chunk ended."""

    def start(self, context):
        super().start(context)
        self.count = 0

    def reduce(self, chunk):
        keep = [i for i in range(len(chunk)) if (self.count + i) % 2]
        self.count += len(chunk)
        return chunk.select(torch.tensor(keep))


@model
def test_what_reduce_remembers_is_as_before_after_a_chunk_that_failed():
    def failing(*args):
        raise RuntimeError("on purpose")

    backbone = load_backbone(BackboneConfig(family="tiny_llava_onevision"))
    frames = Trial("full").frames(9)
    sessions = [StreamSession(backbone, Alternates(budget=40), chunk_frames=3) for _ in range(2)]
    for number, session in enumerate(sessions):
        session.feed(frames[:3])
        if number:
            handle = backbone.decoder.layers[3].register_forward_pre_hook(failing)
            with pytest.raises(RuntimeError, match="on purpose"):
                session.feed(frames[3:6])
            handle.remove()
            session.feed([])
            session.flush()
        else:
            session.feed(frames[3:6])
        session.feed(frames[6:])
    one, other = (copy_state(session.memory) for session in sessions)
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
