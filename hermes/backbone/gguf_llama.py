"""A Llama and its tokenizer from a GGUF file, as transformers has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hermes.backbone.gguf import Gguf, read_gguf
from hermes.errors import InputError, UnsupportedModelError, did_you_mean
from hermes.reading import Span, typed

__all__ = ["architecture_of", "llama_of"]

_ARCHITECTURE = "general.architecture"
_LLAMA, _TOKENS = "llama.", "tokenizer.ggml."
_LAYER: Mapping[str, str] = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# How a text is cut before byte pairs are merged, by the file's `tokenizer.ggml.pre`: regular expressions that
# apply one after another. SmolLM's tokenizer takes every digit alone.
_CUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"smollm": (r"\p{N}", _WORDS), "gpt-2": (_WORDS,), "default": (_WORDS,), "llama-bpe": (_LLAMA_3,)}
)
# Tokens that the file calls control tokens, or a user's own.
_CONTROL, _OWN = 3, 4
_MOST = 1 << 24
_Size = Annotated[int, Span(1, _MOST)]


@dataclass(frozen=True)
class _Sizes:
    """What a file says of its model."""

    block_count: _Size
    embedding_length: _Size
    feed_forward_length: _Size
    context_length: Annotated[int, Span(1, 1 << 31)]
    attention_head_count: _Size
    attention_layer_norm_rms_epsilon: Annotated[float, Span(1e-12, 1)]
    attention_head_count_kv: _Size | None = None
    attention_key_length: _Size | None = None
    attention_value_length: _Size | None = None
    rope_dimension_count: _Size | None = None
    rope_freq_base: Annotated[float, Span(1, 1e12)] = 10000.0
    rope_scaling_type: str = "none"
    expert_count: Annotated[int, Span(0, _MOST)] = 0

    @property
    def groups(self) -> int:
        """KV heads."""
        return self.attention_head_count_kv or self.attention_head_count

    @property
    def head(self) -> int:
        """Channels of a head."""
        return self.attention_key_length or self.embedding_length // self.attention_head_count

    def shapes(self, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor that the model needs, with its shape."""
        width, inner = self.embedding_length, self.feed_forward_length
        queries, keys = self.attention_head_count * self.head, self.groups * self.head
        layer = {
            **dict.fromkeys(("attn_norm", "ffn_norm"), (width,)),
            **{"attn_q": (queries, width), "attn_k": (keys, width), "attn_v": (keys, width)},
            **{"attn_output": (width, queries), "ffn_down": (width, inner)},
            **dict.fromkeys(("ffn_gate", "ffn_up"), (inner, width)),
        }
        yield "token_embd.weight", (vocabulary, width)
        yield "output_norm.weight", (width,)
        for number in range(self.block_count):
            for name, shape in layer.items():
                yield f"blk.{number}.{name}.weight", shape


def architecture_of(path: Path) -> str:
    """The kind of model that a GGUF file holds, as transformers calls it.

    Raises:
        InputError: no such file, see :func:`.read_gguf`.
        UnsupportedModelError: another one than Llama.
    """
    return _architecture(read_gguf(path))


def _architecture(file: Gguf) -> str:
    found = file.values.get(_ARCHITECTURE)
    if found != "llama":
        raise UnsupportedModelError(
            f"{file.path}: {_ARCHITECTURE} is {found!r:.60}; read: 'llama' (Llama, SmolLM2 and others of its "
            "form). Others are read from a transformers folder: backbone=FOLDER"
        )
    return "llama"


def llama_of(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """A causal Llama of transformers and its tokenizer, with the chat template, from a GGUF file.

    Rows of queries and keys come back in the order of transformers, whose rotation pairs a channel with that
    half a head away; the file's pairs are neighbours.

    Args:
        path: of the file.
        dtype: of the weights; they are unpacked, so that a file of 4 bits takes 8 times its size in float32.

    Returns:
        The model, on the CPU, in evaluation mode without gradients, and the tokenizer.

    Raises:
        InputError: the file is broken, or its parts do not fit each other.
        UnsupportedModelError: another architecture, type of numbers, tokenizer or rotation.
    """
    file = read_gguf(path)
    _architecture(file)
    sizes = _sizes(file)
    tokenizer = _tokenizer(file)
    _check_shapes(file, dict(sizes.shapes(len(tokenizer))))
    return _model(file, sizes, tokenizer, dtype), tokenizer


def _sizes(file: Gguf) -> _Sizes:
    given = {
        name.removeprefix(_LLAMA).replace(".", "_"): value
        for name, value in file.values.items()
        if name.startswith(_LLAMA)
    }
    known = _Sizes.__dataclass_fields__
    sizes = typed(_Sizes, {name: given[name] for name in known if name in given}, f"{file.path}: llama.*")
    heads, groups, head = sizes.attention_head_count, sizes.groups, sizes.head
    if heads % groups or head % 2 or not head:
        raise InputError(
            f"{file.path}: {heads} heads, {groups} KV heads and {head} channels a head do not fit"
        )
    layers = len({name.split(".")[1] for name in file.shapes if name.startswith("blk.")})
    if layers != sizes.block_count:
        raise InputError(f"{file.path}: llama.block_count is {sizes.block_count}, and it has {layers} layers")
    refused = {
        "experts": sizes.expert_count,
        "values of another size than keys": (sizes.attention_value_length or head) != head,
        "heads that turn in part": (sizes.rope_dimension_count or head) != head,
        f"rotation scaled by {sizes.rope_scaling_type!r:.60}": sizes.rope_scaling_type != "none",
    }
    for what, there in refused.items():
        if there:
            raise UnsupportedModelError(f"{file.path}: a Llama with {what}, which is not read")
    return sizes


def _check_shapes(file: Gguf, needed: dict[str, tuple[int, ...]]) -> None:
    if "output.weight" in file.shapes:
        needed["output.weight"] = needed["token_embd.weight"]
    for name, shape in needed.items():
        if name not in file.shapes:
            raise InputError(f"{file.path}: the tensor {name!r} is missing")
        if file.shapes[name] != shape:
            raise InputError(
                f"{file.path}: tensor {name!r} has the shape {file.shapes[name]}; needed: {shape}"
            )
    if other := sorted(file.shapes.keys() - needed.keys()):
        raise UnsupportedModelError(
            f"{file.path}: it has the tensor {other[0]!r:.60}, which no plain Llama has"
        )


def _model(file: Gguf, sizes: _Sizes, tokenizer: Any, dtype: torch.dtype) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.embedding_length,
        intermediate_size=sizes.feed_forward_length,
        num_hidden_layers=sizes.block_count,
        num_attention_heads=sizes.attention_head_count,
        num_key_value_heads=sizes.groups,
        head_dim=sizes.head,
        max_position_embeddings=sizes.context_length,
        rms_norm_eps=sizes.attention_layer_norm_rms_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_freq_base},
        tie_word_embeddings="output.weight" not in file.shapes,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=dtype,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    weights = {
        _own_name(name): torch.from_numpy(_in_order(file.tensor(name), name, sizes)).to(dtype)
        for name in file.shapes
    }
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    # Frequencies are no weights: on `meta` there were none.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval().requires_grad_(False)


def _own_name(name: str) -> str:
    """What transformers calls a tensor."""
    if not name.startswith("blk."):
        own = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
        return f"{own[name.removesuffix('.weight')]}.weight"
    _, number, part, _ = name.split(".")
    return f"model.layers.{number}.{_LAYER[part]}.weight"


def _in_order(numbers: NDArray[np.float32], name: str, sizes: _Sizes) -> NDArray[np.float32]:
    """A tensor with its rows as transformers has them."""
    heads = {"attn_q": sizes.attention_head_count, "attn_k": sizes.groups}.get(name.split(".")[-2])
    if heads is None:
        return numbers
    pairs = numbers.reshape(heads, sizes.head // 2, 2, -1)  # [heads, pairs, 2, width]
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(numbers.shape))


def _tokenizer(file: Gguf) -> Any:
    """The file's tokenizer: bytes, whose pairs are merged within the pieces that a text is cut into."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    kind, cut = _of_tokens(file, "model", str), file.values.get(f"{_TOKENS}pre", "default")
    if kind != "gpt2" or cut not in _CUTS:
        near = did_you_mean(str(cut), _CUTS)
        raise UnsupportedModelError(
            f"{file.path}: a tokenizer of kind {kind!r:.60} that cuts texts like {cut!r:.60}; read: 'gpt2' "
            f"that cuts like {', '.join(_CUTS)}. {near}".rstrip()
        )
    tokens, merges = _texts(file, "tokens"), [pair.partition(" ")[::2] for pair in _texts(file, "merges")]
    ids = {token: number for number, token in enumerate(tokens)}
    if not tokens or len(ids) < len(tokens):
        raise InputError(f"{file.path}: {_TOKENS}tokens has none, or one twice")
    if wrong := next((pair for pair in merges if "".join(pair) not in ids), None):
        raise InputError(f"{file.path}: {_TOKENS}merges has {' '.join(wrong)!r:.60}, which makes no token")
    kinds = _of_tokens(file, "token_type", list) if f"{_TOKENS}token_type" in file.values else [1] * len(ids)
    if len(kinds) != len(tokens):
        raise InputError(f"{file.path}: {len(tokens)} tokens, and the types of {len(kinds)}")
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    own = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _OWN]
    try:
        made = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=cut == "llama-bpe"))
    except Exception as error:
        raise InputError(f"{file.path}: {_TOKENS}merges does not fit its tokens: {error}") from error
    pieces = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _CUTS[cut]]
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([*pieces, bytes_alone])
    made.decoder = decoders.ByteLevel()
    made.add_tokens(own)
    named = {role: _named(file, tokens, role) for role in ("bos", "eos", "padding", "unknown")}
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=named["bos"],
        eos_token=named["eos"],
        pad_token=named["padding"] or named["eos"],
        unk_token=named["unknown"],
        additional_special_tokens=special,
        chat_template=_of_tokens(file, "chat_template", str, "tokenizer."),
        clean_up_tokenization_spaces=False,
    )


def _of_tokens(file: Gguf, name: str, kind: type, prefix: str = _TOKENS) -> Any:
    """A value of the tokenizer; only the chat template may be missing."""
    value = file.values.get(f"{prefix}{name}")
    if value is None and name == "chat_template":
        return None
    if not isinstance(value, kind):
        raise InputError(f"{file.path}: {prefix}{name} is {type(value).__name__}; needed: {kind.__name__}")
    return value


def _texts(file: Gguf, name: str) -> list[str]:
    values: list[str] = _of_tokens(file, name, list)
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"{file.path}: {_TOKENS}{name} holds what is no text")
    return values


def _named(file: Gguf, tokens: list[str], role: str) -> str | None:
    """The token that ends a text, and the like."""
    number = file.values.get(f"{_TOKENS}{role}_token_id")
    if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
        raise InputError(
            f"{file.path}: {_TOKENS}{role}_token_id is {number!r:.60}; needed: below {len(tokens)}"
        )
    return None if number is None else tokens[number]
