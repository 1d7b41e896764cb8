"""An archive behind any policy: what is stored is what was evicted, and the memory is the inner policy's."""

from __future__ import annotations

import pytest
import torch

from hermes.errors import SettingError
from hermes.parts import TopK
from hermes.policies.archived import Archived
from hermes.policies.fifo import Fifo
from hermes.policies.full import Full
from hermes.policies.h2o import H2O
from hermes.policies.hermes import Hermes
from hermes.policies.rekv import Rekv
from hermes.policy import MemoryPolicy, Store
from hermes.session.session import StreamSession
from hermes.testing import Trial
from tests.support.asking import holds_exactly, stream_and_ask
from tests.support.contract import keep_the_contract
from tests.support.references import cloned, identical, tiny

pytestmark = pytest.mark.model


def stream(policy: MemoryPolicy, count: int = 20) -> StreamSession:
    session = StreamSession(tiny("llava_onevision"), policy, chunk_frames=4)
    session.feed(Trial("full").frames(count))
    return session


@pytest.mark.parametrize("inner", [Fifo(), Hermes(), H2O()], ids=lambda inner: type(inner).__name__)
def test_the_memory_is_the_inner_policys_and_the_rest_is_stored(inner):
    alone = type(inner)(budget=40)
    whole, plain = stream(Archived(budget=80, inner=inner, page=5)), stream(alone)
    assert identical(whole.memory, cloned(plain.memory))
    archive = whole.policy.archived
    for layer in whole.memory:
        blocks = archive.read(layer.index, range(len(archive.sizes[layer.index])))
        assert [len(block) for block in blocks] == archive.sizes[layer.index]
        assert max(archive.sizes[layer.index]) == 5
        for row in range(layer.rows):
            held = layer.origin.id[0, row].tolist()
            stored = [name for block in blocks for name in block.origin.id[0, row].tolist()]
            assert len(set(stored)) == len(stored)
            assert not set(stored) & set(held)
            # Every token written is in one of the two, but for summaries.
            assert {name for name in [*stored, *held] if name >= 0} == set(range(whole.memory.prefix + 180))
    assert whole.stats().archived_bytes > 0


@pytest.mark.parametrize("need", [None, 0.0, 0.1, 9.0])
def test_a_question_reads_each_layers_best_pages_and_the_memory(need):
    asked = stream_and_ask(Archived(budget=80, inner=Fifo(), page=7, need=need))
    written = [name for name in sorted(asked.keys[0]) if name >= asked.session.memory.prefix]
    different, read = set(), 0

    def similarity(at, page):
        keys = torch.stack([sum(asked.keys[at][name][h] for name in page) / len(page) for h in range(2)])
        query = torch.stack([asked.queries[at][2 * h : 2 * h + 2].mean((0, 1)) for h in range(2)])
        return float((keys * query).sum() / (keys.norm() * query.norm()))

    for layer in asked.fork:
        at = layer.index
        held = asked.session.memory[at].video.id[0, 0].tolist()
        gone, pages = [name for name in written if name not in held], []
        # A page ends with its step's evictions: 36 tokens a chunk, and what the first overflow had.
        start = 0
        while start < len(gone):
            stop = start + ((len(gone) - 36 * 3) if start == 0 else 36)
            pages += [gone[i : min(i + 7, stop)] for i in range(start, stop, 7)]
            start = stop
        assert [len(page) for page in pages] == asked.session.policy.archived.sizes[at]
        scores = [similarity(at, page) for page in pages]
        known = max(similarity(at, held[i : i + 7]) for i in range(0, len(held), 7))
        chosen, room = [], 40
        for i in sorted(range(len(pages)), key=lambda i: -scores[i]):
            if len(pages[i]) > room or (need is not None and scores[i] <= known + need):
                break
            chosen.append(i)
            room -= len(pages[i])
        assert asked.ids(at) == [name for i in sorted(chosen) for name in pages[i]] + held
        assert len(asked.ids(at)) <= 80
        different.add(tuple(chosen))
        read += len(chosen)
        if need != 9.0:
            assert layer.positions.flatten().tolist() == list(range(layer.length))
    # Without a need, what has room: five pages and more a layer.
    most = sum(len(asked.ids(layer.index)) > 40 + 4 * 7 for layer in asked.fork)
    some = read > 0 and most < 10
    assert {None: most == 10, 0.0: some, 0.1: some, 9.0: read == 0}[need]
    assert need == 9.0 or len(different) > 1
    holds_exactly(asked)


def test_no_page_is_larger_than_its_room():
    asked = stream_and_ask(Archived(budget=12, inner=Fifo(), page=7))
    assert all(len(asked.ids(layer.index)) <= 12 for layer in asked.fork)


def test_policies_inside_keep_the_contract():
    keep_the_contract(Archived(inner=Hermes(), store=Store(precision="int4")), tiny("qwen2_5_vl"))
    heads = Hermes(selector=TopK(rank="kv_head", timestamps=0.0))
    keep_the_contract(Archived(inner=heads), tiny("llava_onevision"))


@pytest.mark.parametrize("inner", [Full(), Rekv()], ids=lambda inner: type(inner).__name__)
def test_what_has_no_evictions_or_an_archive_cannot_be_inside(inner):
    with pytest.raises(SettingError, match="inner"):
        Archived(inner=inner)


def test_a_saved_stream_takes_both_along(tmp_path):
    frames = Trial("full").frames(24)
    whole = stream(Archived(budget=80, inner=H2O()), 16)
    whole.save(tmp_path)
    again = StreamSession(tiny("llava_onevision"), Archived(budget=80, inner=H2O()), chunk_frames=4)
    again.resume(tmp_path)
    for session in (whole, again):
        session.feed(frames[16:])
    assert identical(whole.memory, cloned(again.memory))
    one, other = (session.ask("Which?", max_new_tokens=3) for session in (whole, again))
    assert one.ids.tolist() == other.ids.tolist()
