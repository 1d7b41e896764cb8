"""Rotation frequencies: float32 in every model that is served, whatever its weights are."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from hermes.backbone import BackboneConfig, load_backbone, restore_rotation, save_checkpoint
from hermes.errors import UnsupportedModelError
from tests.support.families import each_family, tiny

pytestmark = pytest.mark.model

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def frequencies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}


@each_family
def test_a_tiny_model_in_bfloat16_rotates_as_one_in_float32_far_into_a_stream(family, tmp_path) -> None:
    half = load_backbone(BackboneConfig(family=f"tiny_{family}", dtype="bfloat16"))
    assert half.dtype == torch.bfloat16
    whole = frequencies(tiny(family).model)
    assert whole
    assert frequencies(half.model).keys() == whole.keys()
    for name, given in frequencies(half.model).items():
        assert given.dtype == torch.float32
        assert torch.equal(given, whole[name])
    # A million positions into the stream, with the model's own module.
    at = torch.full((half.axes, 1, 1), 1_000_003.0)
    like = torch.zeros(1, 1, 1)
    given = (at if half.axes > 1 else at[0],)
    for ours, theirs in zip(
        half.decoder.rotary_emb(like, *given), tiny(family).decoder.rotary_emb(like, *given), strict=True
    ):
        assert torch.equal(ours, theirs)
    # As transformers itself loads it.
    save_checkpoint(tiny(family), tmp_path / "model")
    read = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    for name, given in frequencies(read).items():
        assert torch.equal(given, whole[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text", "gpt_neox", "qwen3_5_text"])
def test_a_model_that_was_cast_as_users_do_gets_its_frequencies_back(model_type, dtype, caplog) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **_SIZES))
    before = {name: given.clone() for name, given in frequencies(model).items()}
    model.to(dtype)
    assert all(given.dtype == dtype for given in frequencies(model).values())
    with caplog.at_level(logging.WARNING, "hermes"):
        restore_rotation(model)
    for name, given in frequencies(model).items():
        assert given.dtype == torch.float32
        assert torch.equal(given, before[name])
    assert {weights.dtype for weights in model.parameters()} == {dtype}
    (said,) = [record.getMessage() for record in caplog.records]
    assert str(dtype).removeprefix("torch.") in said
    assert "float32 again" in said
    caplog.clear()
    restore_rotation(model)
    assert not caplog.records


@each_family
def test_a_loaded_model_that_was_cast_is_mended_when_it_is_checked(family, caplog) -> None:
    backbone = load_backbone(BackboneConfig(family=f"tiny_{family}"))
    backbone.model.to(torch.bfloat16)
    with caplog.at_level(logging.WARNING, "hermes"):
        backbone.check()
    assert "float32 again" in caplog.text
    for name, given in frequencies(backbone.model).items():
        assert torch.equal(given, frequencies(tiny(family).model)[name])
    backbone.__dict__.pop("rotary")
    assert torch.equal(backbone.rotary.frequencies, tiny(family).rotary.frequencies)


def test_frequencies_that_the_settings_do_not_give_back_are_refused() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **_SIZES))
    model.model.rotary_emb.inv_freq.mul_(1.5)
    restore_rotation(model)
    model.to(torch.bfloat16)
    with pytest.raises(
        UnsupportedModelError, match=r"LlamaRotaryEmbedding.*bfloat16.*from_pretrained\(..., dtype=...\)"
    ):
        restore_rotation(model)
    assert model.model.rotary_emb.inv_freq.dtype == torch.bfloat16
