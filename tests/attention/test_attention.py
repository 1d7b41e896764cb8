"""Attention over the memory and attention mass against the whole matrix, and what they never make."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hermes.attention import causal_bias, memory_attention, memory_attention_set, reading
from hermes.errors import HermesError
from hermes.kernels import MixPlan, Rotation, attention_mass, compact_layer
from tests.support.references import (
    FAMILIES,
    DenseDecoder,
    eager_mass,
    new_memory,
    noise_chunk,
    prefill,
    tiny,
)
from tests.support.tolerances import close

LAYER = torch.nn.Module()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of any tensor made inside."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.largest = max(self.largest, leaf.numel())
        return out


# -- attention mass ----------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize("heads", [(1, 1), (4, 2), (6, 2), (7, 1), (3, 3)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("held", [1, 37, 2048, 4099])
@pytest.mark.parametrize("own", ["causal", "whole", "none"])
def test_mass_is_the_column_mean(heads, held, own):
    (hq, hkv), n, d = heads, 5, 8
    query, memory = randn(2, hq, n, d) * 2, randn(2, hkv, held, d, seed=1) * 2
    keys = None if own == "none" else randn(2, hkv, n, d, seed=2) * 2
    expected = eager_mass(query, memory, keys, 0.4, own == "causal")
    options = {"scaling": 0.4, "causal": own == "causal"}
    mass = attention_mass(query, memory, keys, **options)
    close("mass", mass, expected.mean(1, keepdim=True))
    close(
        "mass",
        attention_mass(query, memory, keys, per_head=True, **options),
        expected.unflatten(1, (hkv, -1)).mean(2),
    )


@pytest.mark.unit
@pytest.mark.parametrize("held", [1, 37, 4099])
@pytest.mark.parametrize("own", ["causal", "whole", "none"])
@pytest.mark.parametrize("block", [50, 1 << 17])
def test_the_largest_mass_is_that_of_any_query_and_head(held, own, block, monkeypatch):
    monkeypatch.setattr("hermes.kernels.mass.BLOCK", block)
    query, memory = randn(2, 4, 5, 8) * 2, randn(2, 2, held, 8, seed=1) * 2
    keys = None if own == "none" else randn(2, 2, 5, 8, seed=2) * 2
    options = {"scaling": 0.4, "causal": own == "causal", "pool": "max"}
    # A query alone sees what is before it: its row is the mean over one query.
    rows = []
    for i in range(5):
        before = keys
        if keys is not None and own == "causal":
            before = keys[:, :, : i + 1]
        rows.append(eager_mass(query[:, :, i : i + 1], memory, before, 0.4, False))
    expected = torch.stack(rows).amax(0)
    close("kernel_largest", attention_mass(query, memory, keys, **options), expected.amax(1, keepdim=True))
    per_head = attention_mass(query, memory, keys, per_head=True, **options)
    close("kernel_largest", per_head, expected.unflatten(1, (2, -1)).amax(2))


@pytest.mark.unit
def test_mass_over_nothing_is_empty():
    query, none, own = randn(2, 4, 3, 8), randn(2, 2, 0, 8), randn(2, 2, 3, 8)
    assert attention_mass(query, none, own, scaling=1.0).shape == (2, 1, 0)
    assert attention_mass(query, none, None, scaling=1.0, per_head=True).shape == (2, 2, 0)


@pytest.mark.unit
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    hkv=st.integers(1, 3),
    groups=st.integers(1, 4),
    queries=st.integers(1, 7),
    held=st.integers(0, 20),
    width=st.sampled_from([1, 2, 16]),
    own=st.booleans(),
    causal=st.booleans(),
    block=st.integers(1, 60),
)
def test_mass_of_any_shape_in_blocks_of_any_size(
    batch, hkv, groups, queries, held, width, own, causal, block
):
    held = held if own else held + 1
    query, memory = randn(batch, hkv * groups, queries, width), randn(batch, hkv, held, width, seed=1)
    keys = randn(batch, hkv, queries, width, seed=2) if own else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hermes.kernels.mass.BLOCK", block)
        mass = attention_mass(query, memory, keys, scaling=0.7, causal=causal)
    expected = eager_mass(query, memory, keys, 0.7, causal).mean(1, keepdim=True)
    close("mass", mass, expected)
    assert float(mass.sum()) <= batch * (1 + 1e-5)


@pytest.mark.unit
@pytest.mark.parametrize("held", [0, 9, 2050])
def test_mass_with_more_keys_before_the_queries_own(held):
    query, memory, own = randn(1, 4, 3, 8), randn(1, 2, held, 8, seed=1), randn(1, 2, 7, 8, seed=2)
    # Everything but the last three keys is seen by all: as if it were memory.
    expected = eager_mass(query, torch.cat((memory, own[:, :, :4]), dim=2), own[:, :, 4:], 0.5, True)
    mass = attention_mass(query, memory, own, scaling=0.5)
    close("mass", mass, expected[..., :held].mean(1, keepdim=True))


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("held", [40, 2051])
def test_mass_of_half_precision_keys_is_float32_arithmetic(dtype, held):
    query, memory, own = (
        randn(1, 4, 3, 8).to(dtype),
        randn(1, 2, held, 8, seed=1).to(dtype),
        randn(1, 2, 3, 8).to(dtype),
    )
    mass = attention_mass(query, memory, own, scaling=0.35)
    assert mass.dtype == torch.float32
    close(
        "mass", mass, eager_mass(query.float(), memory.float(), own.float(), 0.35, True).mean(1, keepdim=True)
    )


@pytest.mark.unit
@pytest.mark.parametrize("per_head", [False, True])
def test_mass_rounded_to_float16_on_the_way(per_head):
    query, memory, own = randn(1, 4, 3, 8) * 3, randn(1, 2, 50, 8, seed=1) * 3, randn(1, 2, 3, 8, seed=2) * 3
    keys = torch.cat((memory, own), dim=2).repeat_interleave(2, 1)
    weights = (query * 0.35 @ keys.mT).half().softmax(-1)[..., :50].float()
    expected = weights.mean(2).unflatten(1, (2, 2)).mean(2)
    mass = attention_mass(
        query, memory, own, scaling=0.35, causal=False, dtype=torch.float16, per_head=per_head
    )
    close("half_mass", mass, expected if per_head else expected.mean(1, keepdim=True))


@pytest.mark.unit
def test_mass_of_views_and_large_logits():
    query, memory = randn(2, 5, 4, 8).transpose(1, 2) * 40, randn(2, 70, 2, 8, seed=1).transpose(1, 2) * 40
    own = randn(2, 5, 2, 8, seed=2).transpose(1, 2)
    mass = attention_mass(query, memory, own, scaling=1.0)
    assert bool(mass.isfinite().all())
    close("mass", mass, eager_mass(query, memory, own, 1.0, True).mean(1, keepdim=True))


@pytest.mark.unit
@pytest.mark.parametrize("own", [True, False])
def test_mass_never_makes_the_attention_matrix(own):
    hq, hkv, n, held, d = 8, 4, 16, 10_000, 4
    query, memory = randn(1, hq, n, d), randn(1, hkv, held, d, seed=1)
    keys = randn(1, hkv, n, d) if own else None
    with LargestTensor() as made:
        attention_mass(query, memory, keys, scaling=0.5)
    assert made.largest < hq * n * held / 4


# -- attention over the memory -----------------------------------------------------------------------------


def eager(query, key, value, visible, scaling):
    groups = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(groups, 1) for x in (key, value))
    logits = (query.double() @ key.mT * scaling).masked_fill(~visible, float("-inf"))
    return (logits.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("queries", "columns"), [(1, 1), (1, 9), (4, 4), (4, 11), (7, 8)])
@pytest.mark.parametrize("heads", [(2, 2), (6, 2)], ids=["mha", "gqa"])
def test_attention_is_bottom_right_causal(dtype, queries, columns, heads):
    hq, hkv = heads
    query, key, value = (
        randn(2, h, n, 8, seed=n).to(dtype) for h, n in ((hq, queries), (hkv, columns), (hkv, columns))
    )
    visible = torch.tensor([[t <= columns - queries + i for t in range(columns)] for i in range(queries)])
    out, weights = memory_attention(LAYER, query, key, value, None, 0.3)
    assert weights is None
    assert out.dtype == dtype
    assert out.is_contiguous()
    close("attention", out, eager(query.float(), key.float(), value.float(), visible, 0.3))
    bias = causal_bias(queries, columns, query)
    assert torch.equal(bias == 0, visible)
    assert bool((bias[~visible] == float("-inf")).all())


@pytest.mark.unit
def test_a_mask_covers_what_follows_the_memory():
    query, key, value = randn(2, 4, 3, 8), randn(2, 2, 10, 8, seed=1), randn(2, 2, 10, 8, seed=2)
    tail = torch.ones(2, 1, 3, 3, dtype=torch.bool).tril()
    tail[1, :, :, 0] = False
    tail[1, :, 0, 0] = True
    visible = torch.cat((torch.ones(2, 1, 3, 7, dtype=torch.bool), tail), dim=-1)
    out, _ = memory_attention(LAYER, query, key, value, tail)
    close("attention", out, eager(query, key, value, visible, 8**-0.5))


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_sees_what_it_should(family):
    """A batch whose second text is padded on the left; each stream holds tokens of its own."""
    backbone = tiny(family)
    memory = new_memory(backbone)
    for seed, length in ((0, 5), (1, 12)):
        prefill(backbone, memory, noise_chunk(backbone, length, seed, batch=2), prefix=seed == 0)
    memory.apply({i: memory[i].keeping(torch.tensor([[[0, 3, 8]], [[1, 2, 3]]])) for i in (1, 5)})
    texts = noise_chunk(backbone, 4, 7, batch=2, text=True)
    mask = torch.ones(2, memory.next_position + 4, dtype=torch.long)
    mask[1, memory.next_position : memory.next_position + 2] = 0
    padded = run(backbone, memory.fork(), texts.embeds, torch.tensor([[0, 1, 2, 3], [0, 0, 0, 1]]), mask)
    short = run(backbone, memory.fork(), texts.embeds[:, 2:], torch.tensor([[0, 1], [0, 1]]))
    close("one_shot", padded[1, 2:], short[1])


def run(backbone, memory, embeds, steps, mask=None):
    positions = memory.next_position + steps
    with torch.no_grad(), memory_attention_set(backbone.model), reading(memory):
        return backbone.decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            past_key_values=memory,
            use_cache=True,
            position_ids=positions if backbone.axes == 1 else positions.expand(3, -1, -1),
        ).last_hidden_state


@pytest.mark.model
def test_a_memory_is_not_read_by_attention_that_cannot():
    backbone = tiny("llava_onevision")
    memory = new_memory(backbone)
    prefill(backbone, memory, noise_chunk(backbone, 5, 0))
    options = {
        "inputs_embeds": noise_chunk(backbone, 2, 1).embeds,
        "past_key_values": memory,
        "use_cache": True,
    }
    with pytest.raises(HermesError, match=r"reading\(memory\)"), memory_attention_set(backbone.model):
        backbone.decoder(**options)
    memory.rollback()
    with pytest.raises(HermesError, match=r"memory_attention_set\(model\)"), reading(memory):
        backbone.decoder(**options)
    memory.rollback()
    with pytest.raises(HermesError), memory_attention_set(backbone.model), reading(memory.fork()):
        backbone.decoder(**options)
    memory.rollback()
    assert memory.lengths == [5] * backbone.num_layers


# -- the model's attention implementation --------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_installed_restores_what_was_there(family, before):
    model = tiny(family).model
    model.set_attn_implementation({"text_config": before})
    vision = model.config.vision_config._attn_implementation
    try:
        with memory_attention_set(model):
            assert model.config.get_text_config()._attn_implementation == "hermes_memory"
            assert model.config.vision_config._attn_implementation == vision
            with memory_attention_set(model):
                pass
            assert model.config.get_text_config()._attn_implementation == "hermes_memory"
        assert model.config.get_text_config()._attn_implementation == before
        with pytest.raises(KeyError), memory_attention_set(model):
            raise KeyError
        assert model.config.get_text_config()._attn_implementation == before
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})


@pytest.mark.model
def test_prefill_never_makes_the_attention_matrix():
    backbone = tiny("llava_onevision")
    memory = new_memory(backbone)
    prefill(backbone, memory, noise_chunk(backbone, 3000, 0))
    with LargestTensor() as made:
        prefill(backbone, memory, noise_chunk(backbone, 64, 1))
    matrix = backbone.text_config.num_attention_heads * 64 * 3064
    assert made.largest < matrix
    # What is made by the kernel that does make it shows.
    with LargestTensor() as made, sdpa_kernel(SDPBackend.MATH):
        prefill(backbone, memory, noise_chunk(backbone, 64, 2))
    assert made.largest > matrix


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
def test_two_memories_on_one_model_do_not_mix(family):
    """Interleaved, each attends to its own."""
    backbone = tiny(family)
    (one, dense_one), (two, dense_two) = ((new_memory(backbone), DenseDecoder(backbone)) for _ in range(2))
    for seed in range(2):
        for memory, dense, offset in ((one, dense_one, 0), (two, dense_two, 50)):
            chunk = noise_chunk(backbone, 7 + offset // 10, seed + offset, text=True)
            hidden = prefill(backbone, memory, chunk)
            expected, _ = dense.run(chunk.embeds[0], chunk.positions, chunk.tokens.id.tolist())
            close("one_shot", hidden[0], expected)


# -- compaction of one layer ---------------------------------------------------------------------------------


@pytest.mark.unit
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    per_head=st.booleans(),
    length=st.integers(2, 9),
    seed=st.integers(0, 99),
    turned=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_compaction_of_a_layer_token_by_token(batch, heads, per_head, length, seed, turned, dtype):
    generator = torch.Generator().manual_seed(seed)
    rows, kept, half = heads if per_head else 1, max(1, length // 2), 3
    keys, values = (
        torch.randn(batch, heads, length, 2 * half, generator=generator).to(dtype) for _ in range(2)
    )
    order = torch.stack([torch.randperm(length, generator=generator) for _ in range(batch * rows)]).view(
        batch, rows, -1
    )
    keep, gone = order[..., :kept].sort(-1).values, order[..., kept:]
    angle, mixed_angle = (
        torch.randn(batch, rows, n, half, generator=generator) for n in (kept, length - kept)
    )
    weights = torch.full(gone.shape, 1 / gone.shape[-1])
    plan = MixPlan(gone, weights, None, 1, by_channel(mixed_angle))
    rotation = by_channel(angle) if turned else None
    new_keys, new_values = compact_layer(keys, values, keep, rotation, plan)
    assert new_keys.shape == (batch, heads, kept + 1, 2 * half)
    for b in range(batch):
        for h in range(heads):
            r = h if per_head else 0
            for j, slot in enumerate(keep[b, r].tolist()):
                assert torch.equal(new_values[b, h, j], values[b, h, slot])
                expected = turn_one(keys[b, h, slot], angle[b, r, j]) if turned else keys[b, h, slot].double()
                close("rotation", new_keys[b, h, j], expected)
            members = gone[b, r].tolist()
            key = sum(turn_one(keys[b, h, slot], mixed_angle[b, r, e]) for e, slot in enumerate(members))
            close("mix", new_keys[b, h, -1], key / len(members))
            close("mix", new_values[b, h, -1], values[b, h, members].double().mean(0))


def by_channel(angle: torch.Tensor) -> Rotation:
    """Every channel pair turned by an angle of its own, ``[B, R, T, half]``."""
    half = angle.shape[-1]
    return Rotation(angle.movedim(-1, 0), torch.ones(half), torch.arange(half))


def turn_one(key: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    a, b = key.double().chunk(2)
    cos, sin = angle.double().cos(), angle.double().sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin))
