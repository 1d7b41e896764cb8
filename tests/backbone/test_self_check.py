"""The self-check passes what it should, and names the part that was planted wrong."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from hermes.attention import AttentionView
from hermes.backbone import self_check
from hermes.backbone.self_check import layer_specs
from hermes.errors import UnsupportedModelError
from hermes.memory import RecurrentLayer
from tests.support.decoders import decoder, fresh_decoder
from tests.support.references import FAMILIES, tiny

pytestmark = pytest.mark.model

DTYPES = ["float32", "bfloat16"]
UNDERSTOOD = [
    "qwen3",
    "glm4",
    "gpt_neox",
    "cohere",
    "smollm3",
    "qwen2_vl",
    "glm4v",
    "qwen3_5_text",
    "gemma4_text",
    "gemma4",
    "gemma4 small",
    "molmo2",
]


def refused(backbone, part: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"the self-check failed \({part} differs"):
        self_check(backbone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", UNDERSTOOD)
def test_decoders_that_are_understood(model_type, dtype):
    found = self_check(decoder(model_type, dtype))
    assert found.keys() >= {"rotation", "projection", "scale", "attention", "probe"}
    if dtype == "float32":
        assert max(found.values()) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_implementation_is_left_as_it_was(family):
    backbone = tiny(family)
    before = backbone.decoder.config._attn_implementation
    self_check(backbone)
    assert backbone.decoder.config._attn_implementation == before
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in backbone.decoder.layers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", [0, 4, 7])
def test_one_frequency_off_by_a_hair(dtype, pair):
    backbone = fresh_decoder("qwen2_vl", dtype)
    frequencies = backbone.rotary.frequencies.clone()
    frequencies[pair] *= 1.01
    backbone.rotary = replace(backbone.rotary, frequencies=frequencies)
    refused(backbone, "rotation")


@pytest.mark.parametrize("dtype", DTYPES)
def test_axes_taken_for_one_another(dtype):
    backbone = fresh_decoder("qwen2_vl", dtype)
    swapped = torch.tensor([0, 2, 1])[backbone.rotary.axis]
    backbone.rotary = replace(backbone.rotary, axis=swapped)
    refused(backbone, "rotation")


def test_channels_in_another_order():
    backbone = fresh_decoder("glm4")
    backbone.rotary = replace(backbone.rotary, order=None)
    refused(backbone, "rotation")


def eager_with(monkeypatch, backbone, change):
    """Let the decoder's own attention differ from what it tells others."""
    module = sys.modules[type(backbone.decoder).__module__]
    plain = module.eager_attention_forward

    def changed(module, query, key, value, mask, scaling, **options):
        query, mask, scaling = change(query, mask, scaling)
        return plain(module, query, key, value, mask, scaling=scaling, **options)

    monkeypatch.setattr(module, "eager_attention_forward", changed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_5_text"])
def test_scores_of_another_scale(monkeypatch, model_type, dtype):
    backbone = fresh_decoder(model_type, dtype)
    eager_with(monkeypatch, backbone, lambda query, mask, scaling: (query, mask, scaling * 1.2))
    refused(backbone, "scale")


def test_attention_that_is_not_causal(monkeypatch):
    backbone = fresh_decoder("qwen3")
    eager_with(monkeypatch, backbone, lambda query, mask, scaling: (query, None, scaling))
    refused(backbone, "attention")


def test_attention_of_other_queries(monkeypatch):
    backbone = fresh_decoder("qwen3")
    eager_with(monkeypatch, backbone, lambda query, mask, scaling: (query.flip(1), mask, scaling))
    refused(backbone, "attention")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_left_out(dtype):
    backbone = fresh_decoder("qwen3", dtype)

    def project(layer, hidden):
        block = backbone.decoder.layers[layer]
        shape = (*hidden.shape[:2], -1, block.self_attn.head_dim)
        x = block.input_layernorm(hidden)
        parts = (block.self_attn.q_proj(x), block.self_attn.k_proj(x))
        return tuple(part.view(shape).transpose(1, 2) for part in parts)

    backbone.project = project
    refused(backbone, "projection")


@pytest.mark.parametrize("off", [-1, 1])
def test_a_window_off_by_one(monkeypatch, off):
    backbone = fresh_decoder("gemma4_text", sliding_window=6)
    wrong = tuple(
        replace(spec, window=spec.window + off) if spec.window else spec for spec in backbone.layer_specs
    )
    backbone.layer_specs = wrong
    refused(backbone, "window")
    # The settings may be read wrongly, too.
    monkeypatch.setattr(sys.modules[layer_specs.__module__], "layer_specs", lambda config: wrong)
    monkeypatch.setitem(self_check.__globals__, "layer_specs", lambda config: wrong)
    refused(backbone, "window")


def test_a_large_window_off_by_one():
    backbone = fresh_decoder("gemma4_text", sliding_window=512)
    backbone.layer_specs = tuple(
        replace(spec, window=513) if spec.window else spec for spec in backbone.layer_specs
    )
    refused(backbone, "window")


def test_a_state_that_is_lost(monkeypatch):
    monkeypatch.setattr(RecurrentLayer, "begin", lambda layer: layer.reset())
    refused(fresh_decoder("qwen3_5_text"), "state")


def test_pieces_that_are_not_the_whole():
    backbone = fresh_decoder("qwen3")
    run = backbone.run
    # Every piece starts at 0, which shows only where there are several.
    backbone.run = lambda embeds, positions, cache, *given: run(
        embeds, positions - positions.min() if embeds.shape[1] > 1 else positions, cache, *given
    )
    refused(backbone, "chunks|projection")


def test_a_probe_that_sees_wrongly(monkeypatch):
    mass = AttentionView.mass
    monkeypatch.setattr(AttentionView, "mass", lambda view, **given: 1.1 * mass(view, **given))
    refused(fresh_decoder("qwen3"), "probe")


@pytest.mark.parametrize(
    ("model_type", "what"), [("gemma2", "capped logits"), ("gpt_oss", "attention sinks")]
)
def test_attention_that_ours_does_not_do(model_type, what):
    with pytest.raises(UnsupportedModelError, match=what):
        self_check(decoder(model_type))
