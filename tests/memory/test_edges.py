"""Corners of the memory's arithmetic that no stream of ordinary frames reaches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hermes.attention.memory_attention import folded_sdpa
from hermes.errors import HermesError
from hermes.memory import KVMemory, LayerUpdate, Mix
from hermes.memory.layer import Tokens
from hermes.parts import Chain
from hermes.parts.norms import KeyNorm
from hermes.parts.selectors import EvenFrames
from hermes.tokens import Provenance
from tests.memory.test_marks import commit, marked
from tests.support.parts_cases import context_of, memory_of
from tests.support.references import toy_rotary


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (2, 1, 5, 6)])
def test_grouped_heads_share_a_mask_of_any_shape(shape):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, n, 8) for heads, n in ((4, 5), (2, 6), (2, 6)))
    mask = torch.randn(shape)
    folded = folded_sdpa(query, key, value, mask, scaling=0.3)
    repeated = [x.repeat_interleave(2, dim=1) for x in (key, value)]
    plain = F.scaled_dot_product_attention(query, *repeated, mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(folded, plain)


def test_pieces_with_and_without_a_row_for_every_head_become_one():
    def tokens(rows: int, ids: list[int]) -> Tokens:
        table = Provenance.of(len(ids), id=torch.tensor(ids)).table
        positions = torch.tensor(ids, dtype=torch.float32).expand(1, 1, rows, -1)
        keys = torch.zeros(1, 2, len(ids), 4)
        return Tokens(keys, keys, positions, Provenance(table[:, None, None].expand(-1, 1, rows, -1)))

    for pieces in ((tokens(1, [0, 1]), tokens(2, [2])), (tokens(2, [0, 1]), tokens(1, [2]))):
        whole = Tokens.cat(pieces)
        assert whole.positions.shape == (1, 1, 2, 3)
        assert whole.origin.id[0].tolist() == [[0, 1, 2]] * 2


def test_a_reset_layer_has_no_prefix_and_begins_at_zero():
    memory = KVMemory(2, toy_rotary(1))
    commit(memory, marked(protected=[0, 0, 0]), prefix=True)
    assert [(layer.prefix, layer.start) for layer in memory] == [(3, 3)] * 2
    for layer in memory:
        layer.reset()
    assert [(layer.prefix, layer.start) for layer in memory] == [(0, 0)] * 2


def test_a_refused_update_takes_back_the_ids_of_its_summaries():
    memory = KVMemory(1, toy_rotary(1))
    commit(memory, marked(protected=[0, 0, 0, 0]))
    before = memory.next_summary_id
    wrong = LayerUpdate(
        torch.tensor([[[2, 1]]]), Mix(torch.tensor([[[0, 3]]]), torch.full((1, 1, 2), 0.5), size=1)
    )
    with pytest.raises(HermesError, match="layer 0"):
        memory.apply({0: wrong})
    assert memory.next_summary_id == before
    assert memory.lengths == [4]


def test_a_summary_alone_is_refused_in_words():
    memory = KVMemory(1, toy_rotary(1))
    commit(memory, marked(protected=[0, 0, 0]))
    everything = Mix(torch.tensor([[[0, 1, 2]]]), torch.full((1, 1, 3), 1 / 3), size=1)
    with pytest.raises(HermesError, match="layer 0"):
        memory.apply({0: LayerUpdate(torch.zeros(1, 1, 0, dtype=torch.long), everything)})
    assert memory.lengths == [3]


def test_layers_of_one_token_each_match_by_identity():
    layers = [memory_of({"id": [number]})[0] for number in (7, 3, 3)]
    assert Chain(align="identity").partners(layers).flatten().tolist() == [-1, 0, -1]


def test_a_norm_has_one_row_where_heads_are_not_ranked_apart():
    layer = memory_of({"id": [0, 1, 2]})[0]
    assert layer.keys.shape[1] > 1
    assert KeyNorm().score(context_of(layer, 0.0)).shape == (1, 1, 3)


def test_frames_are_counted_for_each_row_alone():
    frame = torch.tensor([[[0, 0, 1, 1], [2, 2, 3, 3]]])
    assert EvenFrames().floor(frame, 4) == 2
