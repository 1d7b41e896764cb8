"""Rotations of any layout are found by moving tokens, and what no layout explains is refused."""

from __future__ import annotations

import pytest
import torch

from hermes.backbone import read_rotary
from hermes.backbone.rotary import key_motions, misfit
from hermes.errors import UnsupportedModelError
from tests.support.decoders import decoder, fresh_decoder
from tests.support.references import FAMILIES, new_memory, tiny

HALF16, HALF32 = list(range(16)), list(range(32))
PAIRS = [0, 2, 4, 6, 8, 9, 10, 11, 1, 3, 5, 7, 12, 13, 14, 15]
# Channel order, axis of every pair, and how many pairs are rotated: written out from each family's formula.
LAYOUTS = {
    "qwen3": (HALF32, [0] * 16, 16),
    "glm4": (PAIRS, [0] * 8, 4),
    "gpt_neox": ([0, 1, 4, 5, 6, 7, 8, 9, 2, 3, 10, 11, 12, 13, 14, 15], [0] * 8, 2),
    "cohere": ([*range(0, 16, 2), *range(1, 16, 2)], [0] * 8, 8),
    "qwen2_vl": (HALF16, [0, 0, 1, 1, 1, 2, 2, 2], 8),
    "glm4v": (PAIRS, [0, 1, 2, 2, 0, 0, 0, 0], 4),
    "qwen3_5_text": (
        [*range(8), *range(16, 24), *range(8, 16), *range(24, 32)],
        [0, 1, 2, 0, 1, 2, 0, 0] + [0] * 8,
        8,
    ),
    "gemma4_text": (HALF32, [0] * 16, 4),
}


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", LAYOUTS)
def test_layouts_are_found(model_type, dtype):
    backbone = decoder(model_type, dtype)
    rotary = read_rotary(backbone, backbone.managed)
    order, axes, count = LAYOUTS[model_type]
    found = list(range(len(order))) if rotary.order is None else rotary.order.tolist()
    assert found == order
    assert rotary.axis.tolist() == axes
    assert int(rotary.frequencies.count_nonzero()) == count
    assert (rotary.frequencies[:count].diff() < 0).all()


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_one_layout_have_no_order(family):
    assert tiny(family).rotary.order is None


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channel", [0, 3, 7])
def test_one_frequency_that_is_off_by_a_hair_is_refused(dtype, channel):
    backbone = fresh_decoder("qwen2_vl", dtype)
    module = backbone.decoder.rotary_emb
    read = type(module).forward

    def off(x, positions):
        kept = module.inv_freq.clone()
        module.inv_freq[channel] *= 1.01
        try:
            return read(module, x, positions)
        finally:
            module.inv_freq.copy_(kept)

    module.forward = off
    with pytest.raises(UnsupportedModelError, match="the rotation of the decoder's layer 0"):
        read_rotary(backbone, backbone.managed)


@pytest.mark.model
def test_positions_that_are_not_rotations_are_refused():
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        decoder("gpt2").check()


@pytest.mark.model
@pytest.mark.parametrize("model_type", ["glm4v", "qwen3_5_text", "gemma4_text"])
def test_keys_turn_as_it_says(model_type):
    backbone = decoder(model_type)
    motions = key_motions(backbone, backbone.managed)
    assert len(motions) == backbone.num_layers
    assert max(misfit(motion, backbone.rotary) for motion in motions) < 1e-5
    # Moved by hand: 64 along the last axis is the third of its shifts.
    motion, rotary = motions[0], backbone.rotary
    shift = torch.zeros(rotary.axes, 1, 1, 1)
    shift[-1] = 64.0
    still, moved = motion.keys[0].float(), motion.keys[1 + 9 * (rotary.axes - 1) + 2].float()
    turned = rotary.rotate(rotary.canonical(still)[None, :, None], shift)
    assert torch.allclose(turned[0, :, 0], rotary.canonical(moved), atol=1e-4 * float(still.abs().max()))


@pytest.mark.model
def test_layers_may_rotate_each_by_its_own_frequencies():
    rotary = decoder("smollm3").rotary
    assert [int(each.frequencies.count_nonzero()) for each in rotary.each] == [8, 8, 8, 0]
    memory = new_memory(decoder("smollm3"))
    assert [layer.rotary for layer in memory] == list(rotary.each)
