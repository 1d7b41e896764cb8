"""GGUF files: blocks, models, tokenizers, and files that say what is not so."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from hermes.backbone import load_backbone
from hermes.backbone.ggml_blocks import dequantised
from hermes.backbone.gguf import read_gguf
from hermes.backbone.gguf_llama import llama_of
from hermes.errors import HermesError, InputError, SettingError, UnsupportedModelError
from tests.support import gguf_files as files

pytestmark = pytest.mark.unit


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return files.write_llama(tmp_path / "model.gguf")


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return path


# -- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", files.SIZES)
@pytest.mark.parametrize("rows", [1, 3])
def test_blocks_are_read_as_they_are_defined(kind, rows, tmp_path):
    raw = files.blocks(kind, rows * 512, seed=kind)
    expected = np.array(files.slowly(raw, kind), np.float32)
    found = dequantised(np.frombuffer(raw, np.uint8), kind)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert found.dtype == np.float32
    file = read_gguf(
        written(tmp_path, files.gguf({}, {"a": ((1,), 0, b"\0" * 4), "x": ((rows, 512), kind, raw)}))
    )
    assert file.shapes == {"a": (1,), "x": (rows, 512)}
    np.testing.assert_array_equal(file.tensor("x"), found.reshape(rows, 512))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(files.Q4_0, "Q4_0"), (files.Q6_K, "Q6_K"), (30, "BF16"), (39, "MXFP4"), (99, "type 99")],
)
def test_other_types_are_refused_by_name(kind, name, tmp_path):
    path = written(tmp_path, files.gguf({}, {"x": ((32,), kind, b"\0" * 64)}))
    with pytest.raises(
        UnsupportedModelError, match=f"'x' is stored as {name}; read: F32, F16, Q4_1, Q8_0, Q4_K"
    ):
        read_gguf(path)


def test_values_of_every_kind(tmp_path):
    values = {
        "yes": True,
        "count": 7,
        "share": 0.5,
        "name": "é",
        "some": [1, -2],
        "words": ["a", ""],
        "none": [],
    }
    assert dict(read_gguf(written(tmp_path, files.gguf(values, {}, version=2))).values) == values


# -- the model ---------------------------------------------------------------------------------------------


def test_the_model_is_that_of_transformers(llama):
    model, tokenizer = llama_of(llama, torch.float32)
    reference = files.reference()
    ids = torch.randint(0, len(tokenizer), (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, reference(ids).logits, rtol=0, atol=1e-5)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not any(weight.requires_grad for weight in model.parameters())
    half, _ = llama_of(llama, torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    # Never cast: far positions would be turned wrongly.
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
    torch.testing.assert_close(half.model.rotary_emb.inv_freq, reference.model.rotary_emb.inv_freq)


def test_an_output_of_its_own_is_taken(tmp_path):
    tensors = files.tensors(files.reference())
    shape, kind, raw = tensors["token_embd.weight"]
    tensors["output.weight"] = (shape, kind, (2 * np.frombuffer(raw, "<f4")).tobytes())
    model, _ = llama_of(written(tmp_path, files.gguf(files.settings(), tensors)), torch.float32)
    torch.testing.assert_close(model.lm_head.weight, 2 * model.model.embed_tokens.weight)


@pytest.mark.model
def test_a_file_is_a_backbone_for_streams_of_text(llama, monkeypatch):
    backbone = load_backbone(str(llama))
    assert (type(backbone).__name__, backbone.num_layers, backbone.num_kv_heads) == ("Text", 2, 2)
    assert backbone.prefix_text().endswith("<|im_start|>user\n")
    backbone.check()
    monkeypatch.chdir(llama.parent)
    assert load_backbone("model.gguf").dtype == torch.float32
    assert load_backbone({"checkpoint": "model.gguf", "dtype": "float16"}).dtype == torch.float16


def test_what_a_file_cannot_be_is_said(llama, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.gguf: cannot be read \(No such file"):
        load_backbone("nowhere.gguf")
    with pytest.raises(SettingError, match=r"backbone\.device_map"):
        load_backbone({"checkpoint": str(llama), "device_map": "auto"})
    with pytest.raises(SettingError, match=r"backbone\.family"):
        load_backbone({"checkpoint": str(llama), "family": "qwen3_vl"})
    with pytest.raises(UnsupportedModelError, match=r"general\.architecture is 'qwen2'"):
        load_backbone(str(files.write_llama(tmp_path / "other.gguf", general__architecture="qwen2")))


# -- the tokenizer -----------------------------------------------------------------------------------------


def ids_of(tmp_path: Path, text: str, **changes) -> list[str]:
    _, tokenizer = llama_of(files.write_llama(tmp_path / "some.gguf", **changes), torch.float32)
    found = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(found) == text
    return tokenizer.convert_ids_to_tokens(found)


def test_every_digit_is_a_token_of_its_own(tmp_path):
    assert ids_of(tmp_path, "hello 123hello's") == ["hello", "Ġ", "1", "2", "3", "hello", "'s"]
    # Other tokenizers merge digits, of Llama 3 at most three and without the blank.
    name = "tokenizer__ggml__pre"
    assert ids_of(tmp_path, "hello 1234", **{name: "gpt-2"}) == ["hello", "Ġ1", "2", "3", "4"]
    assert ids_of(tmp_path, "hello 1234", **{name: "llama-bpe"}) == ["hello", "Ġ", "123", "4"]


def test_control_tokens_are_known_and_texts_come_back(tmp_path):
    found = ids_of(tmp_path, "<|im_start|>hello  é\n\t½ 中<|im_end|>")
    assert (found[0], found[1], found[-1]) == ("<|im_start|>", "hello", "<|im_end|>")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer__ggml__model": "llama"}, "a tokenizer of kind 'llama'"),
        ({"tokenizer__ggml__pre": "smolm"}, "Did you mean 'smollm'"),
        ({"tokenizer__ggml__tokens": None}, "tokenizer.ggml.tokens is NoneType"),
        ({"tokenizer__ggml__tokens": [1, 2]}, "tokens holds what is no text"),
        ({"tokenizer__ggml__tokens": ["a", "a"]}, "has none, or one twice"),
        ({"tokenizer__ggml__merges": ["h e", "nothing"]}, "merges has 'nothing ', which makes no token"),
        ({"tokenizer__ggml__merges": ["hel lo"]}, "does not fit its tokens"),
        ({"tokenizer__ggml__token_type": [1]}, "the types of 1"),
        ({"tokenizer__ggml__eos_token_id": 10_000}, "eos_token_id is 10000"),
        ({"tokenizer__chat_template": 3}, "tokenizer.chat_template is int; needed: str"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        llama_of(files.write_llama(tmp_path / "model.gguf", **changes), torch.float32)


# -- hostile files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"llama__block_count": 2**31}, "from 1 to"),
        ({"llama__block_count": 3}, "block_count is 3, and it has 2 layers"),
        ({"llama__embedding_length": None}, "'embedding_length' is missing"),
        ({"llama__embedding_length": "64"}, 'embedding_length is "64"; needed: a whole number'),
        ({"llama__feed_forward_length": 128}, "has the shape"),
        ({"llama__attention__head_count": 0}, "from 1 to"),
        ({"llama__attention__head_count_kv": 3}, "do not fit"),
        ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "needed: a number"),
        ({"llama__rope__scaling__type": "yarn"}, "rotation scaled by 'yarn'"),
        ({"llama__rope__dimension_count": 8}, "heads that turn in part"),
        ({"llama__expert_count": 8}, "a Llama with experts"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_a_model_is_made(changes, said, tmp_path, monkeypatch):
    path = files.write_llama(tmp_path / "model.gguf", **changes)
    monkeypatch.setattr("transformers.LlamaForCausalLM.__init__", lambda *given: pytest.fail("made"))
    with pytest.raises(InputError, match=said):
        llama_of(path, torch.float32)


def test_tensors_are_those_that_a_llama_has(tmp_path):
    tensors = files.tensors(files.reference())
    more = {**tensors, "rope_freqs.weight": ((8,), files.F32, b"\0" * 32)}
    less = {name: one for name, one in tensors.items() if name != "blk.1.ffn_up.weight"}
    shape, kind, raw = tensors["output_norm.weight"]
    wrong = {**tensors, "output_norm.weight": (shape, kind, raw[:-4] + struct.pack("<f", float("nan")))}
    for given, said in (
        (more, "'rope_freqs.weight', which no"),
        (less, "ffn_up.weight' is missing"),
        (wrong, "finite"),
    ):
        with pytest.raises(InputError, match=said):
            llama_of(written(tmp_path, files.gguf(files.settings(), given)), torch.float32)


ONE = {"x": ((64,), files.F32, b"\0" * 256)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no GGUF file"),
        (b"GG", "no GGUF file"),
        (b"PK\3\4 and more", "no GGUF file"),
        (files.gguf({}, {}, version=1), "version 1; read: 2 and 3"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**63, 0), "tensors; at most"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**63), "values; at most"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**62), "bytes in a text; at most"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1000), "1000 bytes are announced, and 0 are left"),
        (
            struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + files.text("a") + struct.pack("<IIQ", 9, 0, 2**60),
            "announced",
        ),
        (
            struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + files.text("a") + struct.pack("<IIQ", 9, 8, 2**60),
            "no list",
        ),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + files.text("a") + struct.pack("<IIQ", 9, 9, 1), "no list"),
        (
            struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + files.text("a") + struct.pack("<I", 13),
            "a value of type 13",
        ),
        (struct.pack("<4sIQQQ2s", b"GGUF", 3, 0, 1, 2, b"\xff\xfe"), "not UTF-8"),
        (files.gguf({"general.alignment": 0}, ONE), "a power of two"),
        (files.gguf({"general.alignment": 48}, ONE), "a power of two"),
        (files.gguf({"general.alignment": "32"}, ONE), "a power of two"),
        (files.gguf({}, ONE)[:-1], "ends at byte"),
        (files.gguf({}, {"x": ((2**40, 2**40), files.F32, b"")}), "ends at byte"),
        (files.gguf({}, {"x": ((0,), files.F32, b"")}), "the shape"),
        (files.gguf({}, {"x": ((), files.F32, b"")}), "the shape"),
        (files.gguf({}, {"x": ((33,), files.Q8_0, b"")}), "the shape"),
        (files.gguf({}, {"x": ((1,) * 5, files.F32, b"")}), "axes of tensor 'x'; at most 4"),
        (files.gguf({}, ONE, offsets={"x": 2**63}), "ends at byte"),
        (files.gguf({}, ONE, offsets={"x": 7}), "begins at no multiple of 32"),
        (files.gguf({}, {**ONE, "y": ONE["x"]}, offsets={"y": 0}), "'y' begins inside tensor 'x'"),
    ],
)
def test_what_a_file_announces_is_not_believed(content, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read_gguf(written(tmp_path, content))


def test_names_that_come_twice_are_refused(tmp_path):
    once = files.gguf({"a": 1, "b": 1}, ONE)
    with pytest.raises(InputError, match="the value 'a' comes twice"):
        read_gguf(written(tmp_path, once.replace(files.text("b"), files.text("a"))))
    twice = files.gguf({}, {**ONE, "y": ONE["x"]}).replace(files.text("y"), files.text("x"))
    with pytest.raises(InputError, match="the tensor 'x' comes twice"):
        read_gguf(written(tmp_path, twice))


def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path):
    whole = files.gguf(files.settings(), files.tensors(files.reference()))
    rng = random.Random(0)
    for number in range(60):
        raw = bytearray(whole)
        for _ in range(rng.choice((1, 3, 20))):
            raw[rng.randrange(9000 if number % 3 else len(raw))] = rng.randrange(256)
        if number % 5 == 0:
            del raw[rng.randrange(len(raw)) :]
        # Anything else fails the test.
        with suppress(HermesError):
            llama_of(written(tmp_path, bytes(raw)), torch.float32)
