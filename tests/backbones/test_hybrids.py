"""Decoders of gated delta-nets and full attention: against stock `generate`, and against a dense one."""

from __future__ import annotations

import pytest
import torch

from hermes.backbone import self_check
from hermes.decoding.generation import GenerationConfig
from hermes.policies.full import Full
from hermes.session.session import StreamSession
from tests.backbones.test_backbones import stock_inputs
from tests.support.families import NEW_TOKENS, QUESTION, answer, encode, make_frames
from tests.support.memory_cases import held_beside
from tests.support.tiny_qwen3_5 import DenseHybrid, tiny_hybrid
from tests.support.tolerances import close

pytestmark = pytest.mark.model

each_kind = pytest.mark.parametrize("experts", [False, True], ids=["dense", "experts"])


@each_kind
@pytest.mark.parametrize(("count", "cuts", "fps"), [(8, [2, 6], 2.0), (20, [4, 6], 1.0)])
def test_native_layout_answers_like_stock_generate(experts, count, cuts, fps):
    backbone, frames = tiny_hybrid("native", experts=experts), make_frames(count, fps)
    inputs = stock_inputs(backbone, frames, fps)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    stock = backbone.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    expected = stock.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chunks, state = encode(backbone, frames, cuts, fps)
    tokens, logits = answer(backbone, chunks, state)
    close("one_shot", logits, stock.logits[0][0])
    assert tokens.tolist() == expected

    session = StreamSession(
        backbone,
        Full(),
        fps=fps,
        chunk_frames=2,
        generation=GenerationConfig(NEW_TOKENS, repetition_penalty=1),
    )
    session.feed(frames)
    assert session.ask(QUESTION).ids.tolist() == expected


@each_kind
@pytest.mark.parametrize("heads", [1, 2])
def test_a_ragged_memory_beside_states_is_a_dense_one(experts, heads):
    backbone = tiny_hybrid(experts=experts)
    held_beside(backbone, DenseHybrid(backbone), heads=heads)


@torch.no_grad()
def test_project_leaves_the_gate_out():
    backbone = tiny_hybrid()
    hidden = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    block = backbone.decoder.layers[7]
    x = block.input_layernorm(hidden)
    wide = block.self_attn.q_proj(x).view(2, 5, 4, 128)
    query, key = backbone.project(1, hidden)
    order = DenseHybrid(backbone).order
    close("attention", query, block.self_attn.q_norm(wide[..., :64]).transpose(1, 2)[..., order])
    own = block.self_attn.k_norm(block.self_attn.k_proj(x).view(2, 5, 2, 64))
    close("attention", key, own.transpose(1, 2)[..., order])


def test_the_self_check_understands_it():
    assert max(self_check(tiny_hybrid()).values()) < 1e-4
    assert "8 layers (2 x (3 recurrent, 1 managed)) on cpu" in repr(tiny_hybrid())
    assert max(self_check(tiny_hybrid(experts=True)).values()) < 1e-4
