"""Which kinds of layers configurations of transformers' own name, and those that are refused."""

from types import SimpleNamespace

import pytest
from transformers import AutoConfig

from hermes.backbone import layer_specs
from hermes.errors import UnsupportedModelError
from hermes.memory import LayerSpec, describe_layers


def config_of(model_type: str, **given: object) -> object:
    try:
        return AutoConfig.for_model(model_type, **given).get_text_config()
    except ValueError:
        pytest.skip(f"this transformers has no {model_type}")


def kinds(config: object) -> str:
    return "".join(spec.kind[0] for spec in layer_specs(config))


def test_families():
    assert kinds(config_of("qwen2", num_hidden_layers=3)) == "mmm"
    assert kinds(config_of("qwen3_5_text", num_hidden_layers=8)) == "rrrmrrrm"
    assert kinds(config_of("lfm2", layer_types=["conv", "full_attention"], num_hidden_layers=2)) == "rm"
    gemma = config_of("gemma3_text", num_hidden_layers=6, sliding_window=16)
    assert kinds(gemma) == "wwwwwm"
    assert layer_specs(gemma)[0] == LayerSpec("window", window=16)


def test_layers_that_share_keys_name_the_last_of_their_kind():
    pattern = ["sliding_attention", "full_attention"] * 3
    gemma = config_of(
        "gemma4_text", num_hidden_layers=6, layer_types=pattern, num_kv_shared_layers=2, sliding_window=8
    )
    specs = layer_specs(gemma)
    assert [spec.kind for spec in specs[-2:]] == ["shared"] * 2
    assert [spec.source for spec in specs[-2:]] == [2, 3]
    assert describe_layers(specs).endswith("2 shared")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"layer_types": ["full_attention", "sparkling"]},
            r"layer 1 is 'sparkling', and a memory for layers",
        ),
        ({"layer_types": ["full_attention", "indexed_attention"]}, "layer 1 is 'indexed_attention'.*indexer"),
        ({"kv_lora_rank": 8}, "latent attention"),
        ({"sliding_window": 8}, "none of its 2 layers has full attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "the size of its window"),
        (
            {"layer_types": ["full_attention", "linear_attention"], "num_kv_shared_layers": 1},
            "shared 'linear_attention'",
        ),
    ],
)
def test_what_is_missing_is_named(given, message):
    config = SimpleNamespace(num_hidden_layers=2, **{"model_type": "odd", **given})
    with pytest.raises(UnsupportedModelError, match=message):
        layer_specs(config)
