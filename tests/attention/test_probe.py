"""What probes and policies see of attention, against the model's own eager weights and a dense reference."""

from __future__ import annotations

import pytest
import torch

from hermes.attention import Guidance
from hermes.backbone import BackboneConfig
from hermes.backbones.tiny import TinyLlavaOnevision, TinyQwen2_5VL
from hermes.decoding.observer import DecoderObserver
from tests.support.probe_cases import LOCAL, MIXED, OTHER, eager_attentions, filled
from tests.support.references import (
    FAMILIES,
    DenseDecoder,
    cloned,
    eager_mass,
    identical,
    new_memory,
    noise_chunk,
    prefill,
    tiny,
)
from tests.support.tolerances import close

pytestmark = pytest.mark.model


def reference(dense: DenseDecoder, backbone, layer: int, guidance: Guidance, rows=False) -> torch.Tensor:
    """Attention ``[Hq, V]`` of a text to a layer's video tokens, mean over its own, or ``[Hq, n, V]``."""
    embeds = backbone.embed(backbone.encode(guidance.text))[0]
    steps = torch.arange(len(embeds)).expand(backbone.axes, -1)
    if guidance.mode == "exact":
        weights = dense.run(embeds, steps)[1][layer]
    else:
        query, key, _ = dense.project(layer, embeds)
        weights = dense.attention(layer, query, key, steps, causal=False)
    return (weights if rows else weights.mean(1))[..., dense.memory.prefix : -len(embeds)]


# -- the observer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_attention_is_the_models_own(family):
    """On a full cache, against transformers' eager attention in one forward pass of everything."""
    backbone = tiny(family)
    chunks = [noise_chunk(backbone, n, seed, text=seed == 0) for seed, n in ((0, 5), (1, 20), (2, 12))]
    memory = new_memory(backbone)
    for chunk in chunks:
        prefill(backbone, memory, chunk, prefix=chunk is chunks[0])
    eager = eager_attentions(backbone, chunks, LOCAL)
    guidance = Guidance(LOCAL)
    seen = DecoderObserver(backbone, memory).attention(
        {layer: [guidance] for layer in range(backbone.num_layers)}
    )
    for layer in range(backbone.num_layers):
        close("observed", seen[layer, guidance][0, 0], eager[layer][..., 5:].mean(dim=(0, 1)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["exact", "embedding"])
@pytest.mark.parametrize(
    ("ragged", "mix"), [(0, "none"), (1, "summary"), (2, "none")], ids=["full", "layers", "heads"]
)
def test_observed_attention_is_the_dense_reference(family, mode, ragged, mix):
    backbone = tiny(family)
    memory, dense = filled(backbone, ragged=ragged, mix=mix)
    layers = (0, 3, 7, 9)
    before = cloned(memory)
    wanted = {layer: [Guidance(LOCAL, mode), Guidance(OTHER, mode, per_head=True)] for layer in layers}
    seen = DecoderObserver(backbone, memory).attention(wanted)
    assert seen.keys() == {(layer, guidance) for layer in layers for guidance in wanted[layer]}
    assert identical(memory, before)
    for (layer, guidance), mass in seen.items():
        expected = reference(dense, backbone, layer, guidance)
        by_head = guidance.per_head or ragged == 2
        expected = (
            expected.unflatten(0, (backbone.num_kv_heads, -1)).mean(1) if by_head else expected.mean(0)[None]
        )
        close("observed", mass[0], expected)


@pytest.mark.parametrize("mode", ["exact", "embedding"])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
def test_all_at_once_is_one_at_a_time(family, mode):
    backbone = tiny(family)
    memory, _ = filled(backbone, ragged=1)
    local, mixed, other = (Guidance(text, mode) for text in (LOCAL, MIXED, OTHER))
    assert torch.equal(backbone.encode(MIXED)[:, : backbone.encode(LOCAL).shape[1]], backbone.encode(LOCAL))
    wanted = {0: [local], 1: [mixed, local], 4: [mixed], 5: [other], 8: [other, local, other]}
    together = DecoderObserver(backbone, memory).attention(wanted)
    assert len(together) == 7
    for layer, guidance in together:
        alone = DecoderObserver(backbone, memory).attention({layer: [guidance]})[layer, guidance]
        close("observed", together[layer, guidance], alone)


def test_two_streams_are_observed_as_each_alone():
    backbone = tiny("qwen2_5_vl")
    memory, _ = filled(backbone, batch=2)
    for mode in ("exact", "embedding"):
        guidance = Guidance(LOCAL, mode)
        both = DecoderObserver(backbone, memory).attention({6: [guidance]})[6, guidance]
        for stream in range(2):
            one = new_memory(backbone)
            for seed, length in ((0, 5), (1, 20), (2, 12)):
                chunk = noise_chunk(backbone, length, seed, text=seed == 0, batch=2)
                alone = type(chunk)(chunk.embeds[stream : stream + 1], *list(vars(chunk).values())[1:])
                prefill(backbone, one, alone, prefix=seed == 0)
            close(
                "observed",
                both[stream : stream + 1],
                DecoderObserver(backbone, one).attention({6: [guidance]})[6, guidance],
            )


def test_half_precision_weights_are_rounded_ones():
    backbone = tiny("qwen2_5_vl")
    memory, dense = filled(backbone)
    guidance = Guidance(LOCAL, "embedding", half=True)
    mass = DecoderObserver(backbone, memory).attention({5: [guidance]})[5, guidance]
    exact = reference(dense, backbone, 5, guidance).mean(0)
    close("half_mass", mass[0, 0], exact)
    assert not torch.equal(
        mass,
        DecoderObserver(backbone, memory).attention({5: [Guidance(LOCAL, "embedding")]})[
            5, Guidance(LOCAL, "embedding")
        ],
    )


@pytest.mark.parametrize("mode", ["exact", "embedding"])
@pytest.mark.parametrize("family", [TinyLlavaOnevision, TinyQwen2_5VL])
def test_scaled_rotary_embeddings_are_observed_as_they_are(family, mode):
    """YaRN also scales the logits, by the square of its attention factor."""
    rope = {
        "rope_theta": 1e6,
        **family.text.get("rope_parameters", {}),
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
    }
    backbone = type("Yarn", (family,), {"text": {**family.text, "rope_parameters": rope}}).load(
        BackboneConfig()
    )
    assert backbone.decoder.rotary_emb.attention_scaling > 1.1
    memory = new_memory(backbone)
    chunks = [noise_chunk(backbone, n, seed, text=seed == 0) for seed, n in ((0, 5), (1, 30))]
    for chunk in chunks:
        prefill(backbone, memory, chunk, prefix=chunk is chunks[0])
    memory.apply({i: memory[i].keeping(torch.arange(20)) for i in range(5)}, compact=True)
    guidance, layer = Guidance(LOCAL, mode), 0
    mass = DecoderObserver(backbone, memory).attention({layer: [guidance]})[layer, guidance]
    # The first layer's input is the same for both modes; only the mask differs.
    hidden = backbone.embed(backbone.encode(LOCAL))
    query, key = backbone.project(layer, hidden)
    n = hidden.shape[1]
    positions = (memory[layer].clock + torch.arange(n)).float()
    cos, sin = backbone.decoder.rotary_emb(
        hidden, positions if backbone.axes == 1 else positions.expand(3, 1, -1)
    )

    def turned(x):
        a, b = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat((-b, a), dim=-1) * sin[:, None]

    held = memory[layer].keys
    expected = eager_mass(turned(query), held, turned(key), query.shape[-1] ** -0.5, causal=mode == "exact")
    close("observed", mass[0, 0], expected[0].mean(0)[5:])


def test_layers_of_different_rows_are_observed_each_as_alone():
    backbone = tiny("llava_onevision")
    memory, _ = filled(backbone)
    heads = torch.tensor([[[0, 3, 5, 9], [1, 2, 6, 20]]])
    memory.apply({2: memory[2].keeping(heads), 5: memory[5].keeping(heads)})
    wanted = {layer: [Guidance(LOCAL, "embedding")] for layer in (1, 2, 4, 5)}
    together = DecoderObserver(backbone, memory).attention(wanted)
    assert {layer for layer, _ in together} == set(wanted)
    for layer, guidance in together:
        alone = DecoderObserver(backbone, memory).attention({layer: [guidance]})[layer, guidance]
        assert together[layer, guidance].shape[1] == (2 if layer in (2, 5) else 1)
        close("observed", together[layer, guidance], alone)


@pytest.mark.parametrize("mode", ["exact", "embedding"])
@pytest.mark.parametrize("among", ["all", "video"])
@pytest.mark.parametrize("per_head", [False, True])
def test_the_largest_attention_is_that_of_the_loudest_query(mode, among, per_head):
    """``pool="max"`` against the mean's own weights, query by query and head by head."""
    backbone = tiny("llava_onevision")
    memory, dense = filled(backbone)
    layer, prefix = 4, memory.prefix
    plain = Guidance(LOCAL, mode, per_head=per_head, among=among, pool="max")
    best = DecoderObserver(backbone, memory).attention({layer: [plain]})[layer, plain][0]
    weights = reference(dense, backbone, layer, Guidance(LOCAL, mode), rows=True)  # [Hq, n, V]
    if among == "video":
        weights = weights / weights.sum(-1, keepdim=True)
    heads = weights.unflatten(0, (backbone.num_kv_heads, -1)).amax(dim=(1, 2))
    close("observed", best, heads if per_head else heads.amax(0, keepdim=True))
    assert best.shape[-1] == memory[layer].length - prefix
