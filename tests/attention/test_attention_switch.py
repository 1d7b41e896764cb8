"""The attention of a text decoder is set and put back, whatever its part of the settings is called."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from hermes.attention import attention_set, memory_attention_set
from hermes.attention.memory_attention import NAME
from hermes.errors import UnsupportedModelError

pytestmark = pytest.mark.model

_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 14,
    "patch_size": 7,
}


def text_only(model_type: str) -> Any:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **_TEXT))


def text_config() -> Any:
    text = {**_TEXT, "model_type": "qwen2"}
    return AutoModelForImageTextToText.from_config(
        AutoConfig.for_model(
            "llava_onevision",
            text_config=text,
            vision_config=_VISION,
            image_token_index=60,
            video_token_index=61,
        )
    )


def thinker() -> Any:
    """Two levels: the decoder is a part of the thinker, whose settings are a part of the whole model's."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 32}
    audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 16}
    config = Qwen2_5OmniThinkerConfig(
        text_config={**_TEXT, "rope_parameters": rope},
        vision_config={**vision, "fullatt_block_indexes": [0]},
        audio_config={**audio, "output_dim": 32, "num_mel_bins": 8},
    )
    return Qwen2_5OmniThinkerForConditionalGeneration(config)


MODELS = {
    **{name: (lambda name=name: text_only(name)) for name in ("llama", "gpt_neox", "gemma3_text")},
    "text_config": text_config,
    "thinker": thinker,
}


def implementations(model: Any) -> dict[str, str]:
    """What every module's own settings say."""
    return {
        name: module.config._attn_implementation
        for name, module in model.named_modules()
        if hasattr(getattr(module, "config", None), "_attn_implementation")
    }


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    with torch.random.fork_rng(devices=[]):
        return MODELS[request.param]()


def test_it_is_set_on_the_decoder_and_on_nothing_else_and_put_back(model: Any) -> None:
    before, decoder = implementations(model), model.get_decoder()
    inside = {
        name for name, module in model.named_modules() if getattr(module, "config", None) is decoder.config
    }
    assert inside
    for name, switched in ((NAME, memory_attention_set(model)), ("eager", attention_set(model, "eager"))):
        with switched:
            now = implementations(model)
            assert {part for part in now if now[part] == name and before[part] != name} == {
                part for part in inside if before[part] != name
            }
        assert implementations(model) == before
    with pytest.raises(KeyError), memory_attention_set(model), memory_attention_set(model):
        raise KeyError
    assert implementations(model) == before
    with attention_set(model, "eager"), memory_attention_set(model):
        assert decoder.config._attn_implementation == NAME
    assert implementations(model) == before


def test_threads_share_it_and_the_last_one_puts_it_back(model: Any) -> None:
    before, decoder = implementations(model), model.get_decoder()
    inside, leave = threading.Barrier(5), threading.Event()
    wrong: list[str] = []

    def use(early: bool) -> None:
        with memory_attention_set(model):
            inside.wait(60)
            if not early:
                leave.wait(60)
            if decoder.config._attn_implementation != NAME:
                wrong.append(decoder.config._attn_implementation)

    threads = [threading.Thread(target=use, args=(i < 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    inside.wait(60)
    for thread in threads[:2]:
        thread.join(60)
    assert decoder.config._attn_implementation == NAME
    leave.set()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert implementations(model) == before


def test_a_decoder_that_does_not_take_it_is_refused_and_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = text_only("llama")
    before = implementations(model)
    monkeypatch.setattr(type(model.model), "set_attn_implementation", lambda decoder, name: None)
    with (
        pytest.raises(
            UnsupportedModelError, match=r"the attention of LlamaModel cannot be set to 'hermes_memory'"
        ),
        memory_attention_set(model),
    ):
        pass
    assert implementations(model) == before
    monkeypatch.undo()
    with memory_attention_set(model):
        assert model.model.config._attn_implementation == NAME
    assert implementations(model) == before
