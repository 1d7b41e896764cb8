"""Loading backbones: folders, names, settings, and what errors say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hermes.backbone import BackboneConfig, backbone_fallback, load_backbone, save_checkpoint
from hermes.backbone.loading import _Run
from hermes.backbones.qwen3_vl import Qwen3VL
from hermes.config import available, compose
from hermes.errors import InputError, SettingError, UnsupportedModelError
from hermes.tokens import VideoState
from tests.support.families import FAMILIES, answer, each_family, encode, make_frames, tiny
from tests.support.tolerances import close

pytestmark = pytest.mark.model


@pytest.fixture
def checkpoint(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A tiny checkpoint folder; of LLaVA-OneVision, or of the family the test is about."""
    name = (
        request.node.callspec.params.get("family", FAMILIES[0])
        if hasattr(request.node, "callspec")
        else FAMILIES[0]
    )
    save_checkpoint(tiny(name), tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: object) -> None:
    """Change a JSON file; None removes a key."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@each_family
@pytest.mark.parametrize("layout", ["stream", "native"])
def test_a_saved_checkpoint_is_found_by_its_model_type_and_is_the_same(family, layout, checkpoint, capfd):
    made, frames = tiny(family, layout), make_frames(4)
    read = load_backbone({"checkpoint": str(checkpoint), "layout": layout})
    assert capfd.readouterr() == ("", "")
    assert type(read) is type(made).__mro__[2]
    assert read.recipe == made.recipe
    assert read.template_parts == made.template_parts
    expected, got = encode(made, frames, [], 2.0)[0], encode(read, frames, [], 2.0)[0]
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours.embeds, theirs.embeds)
        assert torch.equal(ours.positions, theirs.positions)
    tokens, logits = answer(read, got, VideoState(frames=4))
    wanted, reference = answer(made, expected, VideoState(frames=4))
    close("one_shot", logits, reference)
    assert tokens.tolist() == wanted.tolist()
    assert read.decode(tokens) == made.decode(wanted)


def test_a_checkpoint_is_named_as_on_the_command_line(checkpoint, monkeypatch):
    assert type(load_backbone(str(checkpoint))).__name__ == "LlavaOnevision"
    monkeypatch.chdir(checkpoint.parent)
    assert load_backbone("model").fps == 0.5
    named = load_backbone(
        BackboneConfig(checkpoint="./model", family="hermes.backbones.tiny:LlavaOnevision", fps=4)
    )
    assert named.fps == 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(checkpoint, dtype):
    backbone = load_backbone({"checkpoint": str(checkpoint), "dtype": dtype})
    assert backbone.dtype == getattr(torch, dtype)
    chunk = backbone.video(make_frames(2), VideoState(), fps=1.0)
    assert chunk.embeds.dtype == backbone.dtype
    assert chunk.positions.dtype == torch.float32
    # On a CPU, "auto" is float32 whatever the checkpoint says.
    edit(checkpoint / "config.json", dtype=dtype)
    assert load_backbone(str(checkpoint)).dtype == torch.float32


def test_the_processors_chat_template_precedes_the_tokenizers(checkpoint):
    template = "{% for m in messages %}[{{ m.role }}]{% for c in m.content %}" + (
        "{{ '<video>' if c.type == 'video' else c.text }}{% endfor %}{% endfor %}"
    )
    (checkpoint / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    read = load_backbone({"checkpoint": str(checkpoint), "system_prompt": None})
    assert read.prefix_text() == "[user]"
    assert read.question_text("Why?") == "Why?"


@pytest.mark.parametrize("family", ["qwen2_5_vl"])
def test_where_preprocessor_settings_are_found(family, checkpoint):
    limits = {"shortest_edge": 784, "longest_edge": 4 * 784}
    nested = {"video_processor": {"size": limits, "patch_size": 14}}
    (checkpoint / "processor_config.json").write_text(json.dumps(nested))
    assert load_backbone(str(checkpoint)).recipe.size == limits
    (checkpoint / "processor_config.json").unlink()
    # The older place.
    settings = checkpoint / "video_preprocessor_config.json"
    (checkpoint / "video_processor").mkdir()
    settings.rename(checkpoint / "video_processor" / "preprocessor_config.json")
    assert load_backbone(str(checkpoint)).recipe == tiny(family).recipe
    # An image processor's normalisation holds for video, its pixel limits do not.
    (checkpoint / "video_processor" / "preprocessor_config.json").rename(
        checkpoint / "preprocessor_config.json"
    )
    edit(
        checkpoint / "preprocessor_config.json",
        image_mean=[0.1, 0.2, 0.3],
        min_pixels=3136,
        max_pixels=12845056,
    )
    recipe = load_backbone(str(checkpoint)).recipe
    assert recipe.mean == (0.1, 0.2, 0.3)
    assert recipe.size == {"shortest_edge": 128 * 784, "longest_edge": 768 * 784}
    wide = load_backbone({"checkpoint": str(checkpoint), "max_pixels": 200704})
    assert wide.tokens_per_frame(1080, 1920) == 12 * 21 / 2


def test_the_limits_of_a_qwen3_frame():
    model = SimpleNamespace()
    published = Qwen3VL(
        model,
        None,
        BackboneConfig(),
        preprocessor={"size": {"shortest_edge": 4096, "longest_edge": 25165824}},
    )
    assert published.recipe.size == {"shortest_edge": 2048, "longest_edge": 768 * 32 * 32}
    assert published.recipe.target(360, 640) == (352, 640)
    assert published.recipe.target(2160, 3840) == (640, 1152)


def test_every_shipped_configuration_names_its_family():
    names = available("backbone")
    assert "embedded" in names
    rates = {"llava_onevision": 0.5, "qwen2_5_vl": 1, "qwen3_vl": 2, "qwen3_5": 2}
    for name in names:
        if name in ("embedded", "smol_captions"):
            continue
        config = compose({"backbone": name}, [], _Run, fallbacks={"backbone": backbone_fallback}).backbone
        family = config.family.removeprefix("tiny_")
        assert family == "auto" or name.removeprefix("tiny_").startswith(family)
        assert bool(config.checkpoint) != name.startswith("tiny_")
        assert config.fps == rates.get(family, config.fps)
        assert config.fps


def test_no_such_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"'org/model' is not a local folder.*hf download org/model --local-dir"
    ):
        load_backbone("org/model")
    with pytest.raises(InputError, match="is not a folder"):
        load_backbone(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="has no config"):
        load_backbone(str(tmp_path))
    with pytest.raises(InputError, match="cannot be fetched"):
        load_backbone("a/b/c")
    with pytest.raises(SettingError, match="Did you mean 'llava_onevision_7b'"):
        load_backbone("llava_onevison_7b")
    with pytest.raises(SettingError, match=r"backbone\.checkpoint"):
        load_backbone({})


def test_checkpoints_of_other_kinds(checkpoint):
    config = checkpoint / "config.json"
    edit(config, model_type="qwen9_vl")
    with pytest.raises(
        UnsupportedModelError, match=r"'qwen9_vl'.*qwen2_5_vl.*subclass hermes\.backbone\.Backbone"
    ):
        load_backbone(str(checkpoint))
    edit(config, model_type="t5", vision_config=None)
    with pytest.raises(UnsupportedModelError, match=r"'t5'.*Supported: .*llava_onevision.*language models"):
        load_backbone(str(checkpoint))
    config.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_backbone(str(checkpoint))


def test_families_given_by_hand(checkpoint):
    with pytest.raises(SettingError, match=r"backbone\.family.*Did you mean 'qwen2_5_vl'"):
        load_backbone({"checkpoint": str(checkpoint), "family": "qwen25_vl"})
    with pytest.raises(SettingError, match=r"backbone\.family.*a subclass of"):
        load_backbone({"checkpoint": str(checkpoint), "family": "pathlib.Path"})
    with pytest.raises(SettingError, match=r"backbone\.family.*serves qwen3_vl.*is 'llava_onevision'"):
        load_backbone({"checkpoint": str(checkpoint), "family": "qwen3_vl"})
    with pytest.raises(SettingError, match=r"backbone\.checkpoint.*random"):
        load_backbone({"checkpoint": str(checkpoint), "family": "tiny_llava_onevision"})
    with pytest.raises(SettingError, match=r"backbone\.checkpoint: got ''.*a hub id"):
        load_backbone("llava_onevision")


def test_decoders_that_cannot_stream(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    text = config["text_config"]
    kinds = ["full_attention"] * 5 + ["hybrid"] * 5
    edit(checkpoint / "config.json", text_config={**text, "layer_types": kinds})
    with pytest.raises(UnsupportedModelError, match=r"layer 5 is 'hybrid'.*tokens and a state.*missing"):
        load_backbone(str(checkpoint))
    rope = {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}
    edit(checkpoint / "config.json", text_config={**text, "rope_parameters": rope})
    with pytest.raises(UnsupportedModelError, match="'dynamic' RoPE"):
        load_backbone(str(checkpoint))


def test_broken_checkpoints(checkpoint):
    from safetensors.torch import load_file, save_file

    weights = checkpoint / "model.safetensors"
    kept = {name: w for name, w in load_file(weights).items() if not name.endswith("image_newline")}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights, such as .*image_newline"):
        load_backbone(str(checkpoint))
    weights.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(str(checkpoint))
    weights.unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(str(checkpoint))


def test_bad_settings(checkpoint):
    with pytest.raises(SettingError, match=r"backbone\.device: got 'gpu'"):
        load_backbone({"checkpoint": str(checkpoint), "device": "gpu"})
    with pytest.raises(SettingError, match=r"backbone\.device: got 'cuda:99'.*No such GPU"):
        load_backbone({"checkpoint": str(checkpoint), "device": "cuda:99"})
    with pytest.raises(SettingError, match=r"backbone\.layout"):
        load_backbone({"checkpoint": str(checkpoint), "layout": "natve"})
    with pytest.raises(SettingError, match=r"backbone\.max_pixels.*always 42x42"):
        _ = load_backbone({"checkpoint": str(checkpoint), "max_pixels": 4000}).recipe
    with pytest.raises(SettingError, match=r"backbone\.device_map: got 'everywhere'"):
        load_backbone({"checkpoint": str(checkpoint), "device_map": "everywhere"})
