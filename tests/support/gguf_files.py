"""GGUF files written by hand, and their blocks read one number at a time."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

F32, F16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K = 0, 1, 2, 3, 8, 12, 14
# Numbers in a block, and its bytes.
SIZES = {F32: (1, 4), F16: (1, 2), Q4_1: (32, 20), Q8_0: (32, 34), Q4_K: (256, 144)}
HIDDEN, INNER, LAYERS, HEADS, GROUPS, HEAD = 64, 96, 2, 4, 2, 16
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def text(value: str) -> bytes:
    """A text as the format has it."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(given: Any) -> bytes:
    """A value with its type before it."""
    if isinstance(given, bool):
        return struct.pack("<I?", 7, given)
    if isinstance(given, int):
        return struct.pack("<II", 4, given)
    if isinstance(given, float):
        return struct.pack("<If", 6, given)
    if isinstance(given, str):
        return struct.pack("<I", 8) + text(given)
    if all(isinstance(one, str) for one in given):
        return struct.pack("<IIQ", 9, 8, len(given)) + b"".join(map(text, given))
    return struct.pack(f"<IIQ{len(given)}i", 9, 5, len(given), *given)


def gguf(
    values: Mapping[str, Any],
    tensors: Mapping[str, tuple[Sequence[int], int, bytes]],
    *,
    version: int = 3,
    offsets: Mapping[str, int] | None = None,
) -> bytes:
    """A file of values and tensors (shape, type, bytes), aligned to 32 bytes.

    Args:
        offsets: where some tensors are said to begin, in place of where they do.
    """
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(values))
    head += b"".join(text(name) + value(given) for name, given in values.items())
    body = b""
    for name, (shape, kind, raw) in tensors.items():
        at = (offsets or {}).get(name, len(body))
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, at)
        body += raw + b"\0" * (-len(raw) % 32)
    return head + b"\0" * (-len(head) % 32) + body


def slowly(raw: bytes, kind: int) -> list[float]:
    """The numbers of whole blocks, as the formats are defined: one after another."""
    count, size = SIZES[kind]
    out: list[float] = []
    for at in range(0, len(raw), size):
        block = raw[at : at + size]
        if kind in (F32, F16):
            out += struct.unpack("<f" if kind == F32 else "<e", block)
        elif kind == Q8_0:
            (scale,) = struct.unpack("<e", block[:2])
            out += [scale * q for q in struct.unpack("<32b", block[2:])]
        elif kind == Q4_1:
            scale, least = struct.unpack("<ee", block[:4])
            quants = [block[4 + i % 16] >> 4 * (i // 16) & 15 for i in range(32)]
            out += [scale * q + least for q in quants]
        else:
            scale, least = struct.unpack("<ee", block[:4])
            bits, quants = block[4:16], block[16:]
            for i in range(count):
                sub = i // 32
                if sub < 4:
                    factor, offset = bits[sub] & 63, bits[sub + 4] & 63
                else:
                    factor = bits[sub + 4] & 15 | bits[sub - 4] >> 6 << 4
                    offset = bits[sub + 4] >> 4 | bits[sub] >> 6 << 4
                q = quants[i // 64 * 32 + i % 32] >> 4 * (sub % 2) & 15
                out.append(scale * factor * q - least * offset)
    return out


def blocks(kind: int, count: int, seed: int = 0) -> bytes:
    """Random blocks that hold ``count`` numbers, with scales that are numbers."""
    rng = np.random.default_rng(seed)
    per, size = SIZES[kind]
    if kind == F32:
        return rng.normal(size=count).astype("<f4").tobytes()
    if kind == F16:
        return rng.normal(size=count).astype("<f2").tobytes()
    raw = rng.integers(0, 256, (count // per, size), dtype=np.uint8)
    halves = 2 if kind == Q8_0 else 4
    raw[:, :halves] = rng.normal(scale=0.1, size=(count // per, halves // 2)).astype("<f2").view(np.uint8)
    return raw.tobytes()


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a small tokenizer of bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ġ 1", "1 2", "12 3", "' s"]
    letters = sorted(ByteLevel.alphabet())
    return [*CONTROL, *letters, *("".join(pair.split()) for pair in merges)], merges


def settings(**changes: Any) -> dict[str, Any]:
    """The values of a small Llama with its tokenizer; a change to None takes one away."""
    tokens, merges = vocabulary()
    found = {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 4096,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": GROUPS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": HEAD,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHAT,
    }
    found |= {name.replace("__", "."): change for name, change in changes.items()}
    return {name: given for name, given in found.items() if given is not None}


def reference() -> Any:
    """The Llama of transformers that :func:`tensors` writes."""
    config = LlamaConfig(
        vocab_size=len(vocabulary()[0]),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensors(model: Any) -> dict[str, tuple[Sequence[int], int, bytes]]:
    """A model's weights as a file has them: two rows of a head that turn together are neighbours."""
    found = {}
    for name, weight in model.named_parameters():
        own = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
        if name not in own:
            _, _, number, part = name.removesuffix(".weight").split(".", 3)
            own[name] = f"blk.{number}.{_PARTS[part]}.weight"
            if part.endswith(("q_proj", "k_proj")):
                rows = [
                    h * HEAD + i // 2 + i % 2 * (HEAD // 2)
                    for h in range(len(weight) // HEAD)
                    for i in range(HEAD)
                ]
                weight = weight[rows]
        array = weight.detach().numpy().astype("<f4")
        found[own[name]] = (array.shape, F32, array.tobytes())
    return found


def write_llama(path: Path, **changes: Any) -> Path:
    """A small Llama as a GGUF file; other values as of :func:`settings`."""
    path.write_bytes(gguf(settings(**changes), tensors(reference())))
    return path
