"""ReKV against loops over raw keys: what is archived, what each layer retrieves, and where it goes."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from hermes.policies.rekv import Rekv
from hermes.policy import Store
from tests.support.asking import Asked, holds_exactly, stream_and_ask

pytestmark = pytest.mark.model


def slow_frames(asked: Asked, layer: int, old: list[list[int]], count: int) -> list[list[int]]:
    """The best frames (lists of ids), in time order, by the plain product of mean query and mean key."""
    queries = asked.queries[layer]
    heads, group = 2, queries.shape[0] // 2
    scores = []
    for ids in old:
        total = 0.0
        for head in range(heads * group):
            mean_query = sum(queries[head, i] for i in range(queries.shape[1])) / queries.shape[1]
            mean_key = sum(asked.keys[layer][name][head // group] for name in ids) / len(ids)
            total += float(mean_query @ mean_key)
        scores.append(total)
    chosen = sorted(range(len(old)), key=lambda at: scores[at])[len(old) - count :]
    return [old[at] for at in sorted(chosen)]


def frames_of(asked: Asked) -> list[list[int]]:
    prefix = asked.session.memory.prefix
    ids = sorted(name for name in asked.keys[0] if name >= prefix)
    size = len(ids) // (asked.session.frames_seen // asked.session.backbone.frames_per_group)
    return [ids[at : at + size] for at in range(0, len(ids), size)]


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
@pytest.mark.parametrize("over", ["memory", "prefix"])
def test_every_layer_answers_from_its_best_frames(family, over):
    asked = stream_and_ask(Rekv(budget=40, question_over=over), family)
    frames = frames_of(asked)
    size = len(frames[0])
    chosen = set()
    for layer in range(10):
        expected = slow_frames(asked, layer, frames, 40 // size)
        assert asked.ids(layer) == [name for ids in expected for name in ids]
        chosen.add(tuple(asked.ids(layer)))
    assert len(chosen) > 1
    holds_exactly(asked)


def test_the_window_answers_until_it_is_full():
    asked = stream_and_ask(Rekv(budget=200))
    assert asked.session.policy.archived.sizes[0] == []
    assert asked.ids(3) == [name for ids in frames_of(asked) for name in ids]


def test_recent_tokens_are_kept_and_not_retrieved_again():
    asked = stream_and_ask(Rekv(budget=40, recent=12, blocks=3))
    frames = frames_of(asked)
    tail = [name for ids in frames for name in ids][-12:]
    old = [ids for ids in frames if ids[-1] < tail[0]]
    for layer in range(10):
        expected = [name for ids in slow_frames(asked, layer, old, 3) for name in ids]
        assert asked.ids(layer) == [*expected, *tail]
    holds_exactly(asked)


def test_neighbours_can_share_their_score():
    asked = stream_and_ask(Rekv(budget=40, chunk=4, blocks=4))
    frames = frames_of(asked)
    for layer in range(10):
        groups = [list(chain(*frames[at : at + 4])) for at in range(0, len(frames), 4)]
        assert asked.ids(layer) == slow_frames(asked, layer, groups, 1)[0]


def test_integers_change_little():
    exact = stream_and_ask(Rekv(budget=40))
    coarse = stream_and_ask(Rekv(budget=40, store=Store(precision="int8")))
    assert exact.session.policy.archived_bytes > 1.8 * coarse.session.policy.archived_bytes
    for one, other in zip(exact.fork, coarse.fork, strict=True):
        assert torch.equal(one.origin.id, other.origin.id)
        spread = float(one.keys.max() - one.keys.min())
        assert 0 < float((one.keys - other.keys).abs().max()) < spread / 100
