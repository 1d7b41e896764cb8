"""A model that a user has loaded: served as it is, left as it was, or refused with a reason."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from hermes.backbone import Backbone, load_backbone, save_checkpoint, stock_processor, weights_fingerprint
from hermes.errors import InputError, SettingError, UnsupportedModelError
from hermes.session.opening import open_session
from hermes.session.session import StreamSession
from hermes.testing.trial import fingerprint
from tests.support.families import make_frames, tiny

pytestmark = pytest.mark.model

QUESTION = "What is the person doing now?"
SHORT = ["stream.chunk_frames=2", "generation.max_new_tokens=6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "checkpoint"
    save_checkpoint(tiny("qwen2_5_vl"), path)
    return path


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder)


def streamed(**given: Any) -> StreamSession:
    session = open_session(policy="hermes", budget=24, overrides=SHORT, **given)
    session.feed(make_frames(8))
    return session


def test_it_answers_as_the_same_checkpoint_loaded_here(model: Any, folder: Path) -> None:
    ours, theirs = streamed(backbone=str(folder)), streamed(model=model, processor=folder)
    assert theirs.backbone.model is model
    assert ours.ask(QUESTION).ids.tolist() == theirs.ask(QUESTION).ids.tolist()
    assert repr(theirs) == repr(ours)
    assert str(folder) in repr(theirs)
    assert theirs._repr_html_()


def test_it_is_left_as_it_was_found_also_after_an_error(model: Any, folder: Path) -> None:
    model.train()
    # One part is not.
    model.model.visual.eval()
    model.model.rope_deltas = noted = torch.tensor([[3]])
    model.set_attn_implementation("eager")
    found = fingerprint(model)
    session = streamed(model=model, processor=folder)
    session.ask(QUESTION)
    assert fingerprint(model) == found
    assert model.model.rope_deltas is noted
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(layer.keys.requires_grad for layer in session.memory)

    def fail(text: str) -> None:
        assert not model.training
        raise KeyError(text)

    with pytest.raises(KeyError):
        session.ask(QUESTION, on_text=fail)
    with pytest.raises(InputError):
        session.feed(np.zeros((1, 1, 1, 3), np.uint8))
    assert fingerprint(model) == found


def test_a_processor_says_the_same_as_its_folder(model: Any, folder: Path) -> None:
    known = tiny("qwen2_5_vl")
    settings = {**known.pixel_defaults, **known.preprocessor}
    processor = stock_processor("qwen2_5_vl", known.tokenizer, settings, {}, known.default_template)
    made = load_backbone(model=model, processor=processor)
    from_folder = load_backbone(model=model, processor=str(folder))
    assert made.recipe == from_folder.recipe == known.recipe
    assert made.prefix_text() == from_folder.prefix_text() == known.prefix_text()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_weights_in_eight_bits_stay_so(model: Any, folder: Path, tmp_path: Path) -> None:
    whole = streamed(model=copy.deepcopy(model), processor=folder)
    with pytest.warns(DeprecationWarning, match="torch.ao"):
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8, inplace=True)
    kinds = [type(module) for module in model.modules()]
    assert torch.ao.nn.quantized.dynamic.Linear in kinds
    session = streamed(model=model, processor=folder)
    answer = session.ask(QUESTION)
    assert max(session.memory.lengths) <= 24 + session.memory.prefix
    assert [type(module) for module in model.modules()] == kinds
    # It is another model to a saved stream, and the same one to itself.
    session.save(tmp_path / "saved")
    again = open_session(model=model, processor=folder, policy="hermes", budget=24, overrides=SHORT)
    again.resume(tmp_path / "saved")
    assert again.ask(QUESTION).ids.tolist() == answer.ids.tolist()
    with pytest.raises(SettingError, match=r"backbone\.weights"):
        whole.resume(tmp_path / "saved")
    one = next(m for m in model.modules() if isinstance(m, torch.ao.nn.quantized.dynamic.Linear))
    before = weights_fingerprint(session.backbone)
    one.set_weight_bias(torch.quantize_per_tensor(torch.ones(one.weight().shape), 0.1, 0, torch.qint8), None)
    assert weights_fingerprint(session.backbone) != before


def test_half_precision_stays_so(folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    session = streamed(model=model, processor=folder)
    assert session.memory[0].keys.dtype == torch.bfloat16
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert session.ask(QUESTION).answer is not None


def test_a_text_model_needs_its_tokenizer_alone() -> None:
    known = load_backbone("tiny_text")
    session = open_session(model=known.model, processor=known.tokenizer, policy="fifo", budget=64)
    assert "a LlamaForCausalLM" in repr(session) or type(known.model).__name__ in repr(session)
    session.feed(["A dog runs.", "It sits down."])
    assert session.ask("What does the dog do?").answer is not None


def test_how_it_is_used_may_be_said(model: Any, folder: Path) -> None:
    session = open_session(model=model, processor=folder, policy="full", overrides=["backbone.layout=native"])
    assert session.backbone.config.layout == "native"
    made = load_backbone({"max_pixels": 4000}, model=model, processor=folder)
    assert made.config.max_pixels == 4000


class _Bare:
    """A processor without a tokenizer."""

    video_processor = SimpleNamespace(size={})


@pytest.mark.parametrize(
    ("setting", "given"),
    [
        ("model", {"model": "Qwen/Qwen2.5-VL-7B-Instruct"}),
        ("model", {"model": AutoModelForImageTextToText}),
        ("model", {"model": None}),
        ("model", {"model": nn.Linear(2, 2)}),
        ("model", {"model": 3}),
        ("processor", {"processor": None}),
        ("processor", {"processor": "tokenizer"}),
        ("processor", {"processor": _Bare()}),
        ("processor", {"processor": _Bare}),
        ("processor", {"processor": 3}),
        ("backbone", {"backbone": "tiny_llava_onevision"}),
        ("backbone", {"backbone": Backbone}),
        ("backbone.device", {"overrides": ["backbone.device=cpu"]}),
        ("backbone.dtype", {"overrides": ["backbone.dtype=float16"]}),
        ("backbone.checkpoint", {"overrides": ["backbone.checkpoint=somewhere"]}),
        ("backbone.family", {"overrides": ["backbone.family=llava_onevision"]}),
    ],
    # No address of an object: every process names the tests alike.
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_is_wrong_is_named(setting: str, given: dict[str, Any], folder: Path) -> None:
    known = tiny("qwen2_5_vl")
    if given.get("processor") == "tokenizer":
        given = {"processor": known.tokenizer}
    with pytest.raises(SettingError, match=rf"^{setting}: got"):
        open_session(**{"model": known.model, "processor": folder, **given})


def test_a_decoder_without_its_head_is_refused(model: Any, folder: Path) -> None:
    with pytest.raises(SettingError, match="language head"):
        open_session(model=model.model, processor=folder)


def test_a_folder_without_a_processor_and_the_tokenizer_of_another_model(
    tmp_path: Path, folder: Path
) -> None:
    with pytest.raises(InputError, match="no processor"):
        open_session(model=tiny("qwen2_5_vl").model, processor=tmp_path)
    text = load_backbone("tiny_text")
    larger = copy.deepcopy(text.tokenizer)
    larger.add_tokens([f"word{number}" for number in range(2000)])
    with pytest.raises(SettingError, match="another model's"):
        open_session(model=text.model, processor=larger)


def test_weights_that_are_left_on_disk_are_refused(folder: Path, tmp_path: Path) -> None:
    parts = ["visual", "language_model.embed_tokens", "language_model.norm", "language_model.rotary_emb"]
    layers = {f"model.language_model.layers.{number}": "disk" for number in range(10)}
    places = {"lm_head": "cpu", **{f"model.{part}": "cpu" for part in parts}, **layers}
    model = AutoModelForImageTextToText.from_pretrained(folder, device_map=places, offload_folder=tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"device_map with offload"):
        open_session(model=model, processor=folder)


def test_a_model_of_an_unknown_kind_is_refused_by_its_type() -> None:
    text = load_backbone("tiny_text")
    model = copy.deepcopy(text.model)
    model.config.model_type = "unheard_of"
    with pytest.raises(UnsupportedModelError, match="unheard_of"):
        open_session(model=model, processor=text.tokenizer)
