"""Attention over the memory, registered with transformers, and what an attention probe may see of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from hermes.attention.as_found import Found
from hermes.attention.probe import AttentionProbe
from hermes.attention.view import AttentionView
from hermes.errors import UnsupportedModelError
from hermes.kernels import Kernels
from hermes.memory import KVLayer, KVMemory, Scope, current_scope
from hermes.tokens import Provenance

NAME = "hermes_memory"

# What blocks may ask of an attention by keyword, and ours would leave out.
_BEYOND: Mapping[str, str] = MappingProxyType(
    {"softcap": "capped logits", "s_aux": "attention sinks", "position_bias": "biased logits"}
)


@dataclass(kw_only=True)
class AttentionScope(Scope):
    """What is going through the decoder: the memory, a probe, a chunk, masks shared by the layers.

    Attributes:
        watched: layers that the probe asks for.
        writes_only: nobody reads the decoder's output: leave it once the last layer has its keys and values.
        masks: causal masks shared by layers of equal length.
    """

    memory: KVMemory
    probe: AttentionProbe | None = None
    chunk: Provenance | None = None
    positions: Float[Tensor, "A Q"] | None = None
    watched: frozenset[int] = frozenset()
    writes_only: bool = False
    masks: dict[tuple[int, int, torch.device], Tensor] = field(default_factory=dict)


class StopForwardError(Exception):
    """Leaves the decoder early, where nothing that follows is wanted."""


@contextmanager
def reading(
    memory: KVMemory,
    probe: AttentionProbe | None = None,
    chunk: Provenance | None = None,
    *,
    positions: Tensor | None = None,
    writes_only: bool = False,
) -> Iterator[AttentionScope]:
    """Run the decoder on ``memory`` inside this context; a probe sees the layers it asks for.

    The decoder's output is bit-identical with and without a probe; unprobed layers pay nothing. With
    ``writes_only`` there is no output: ``StopForwardError`` leaves the decoder in its last layer, whose
    attention and feed-forward would change nothing in the memory.
    """
    watched = frozenset(probe.layers(len(memory))) if probe is not None else frozenset()
    memory.begin()
    scope = AttentionScope(
        layers=memory.managed,
        memory=memory,
        probe=probe,
        chunk=chunk,
        positions=positions,
        watched=watched,
        writes_only=writes_only,
    )
    token = current_scope.set(scope)
    try:
        yield scope
    finally:
        current_scope.reset(token)


def _current() -> AttentionScope | None:
    scope = current_scope.get()
    return scope if isinstance(scope, AttentionScope) else None


def memory_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """The mask transformers prepares for us: none over the memory, unless a batch is padded or tokens attend
    both ways; a window's own.

    A window layer (``local_size``) counts its own tokens, which a padding mask does not know: its last
    columns are those of the window.
    """
    padded = attention_mask is not None and not bool(attention_mask.all())
    # transformers says so where a mask is more than causal.
    more = not kwargs.get("allow_is_causal_skip", True)
    kwargs["allow_is_causal_skip"] = False
    if kwargs.get("local_size") is not None:
        window: Tensor | None = sdpa_mask(*args, attention_mask=None, **kwargs)
        if padded and attention_mask is not None and window is not None:
            window = window & attention_mask[:, None, None, -window.shape[-1] :].bool()
        return window
    if not padded and not more:
        return None
    mask: Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
    return mask


def causal_bias(queries: int, columns: int, like: Tensor) -> Tensor:
    """Additive bottom-right causal mask ``[Q, T]``: query i sees columns up to ``T - Q + i``."""
    hidden = torch.ones(queries, columns, dtype=torch.bool, device=like.device).triu(columns - queries + 1)
    return torch.zeros(queries, columns, dtype=like.dtype, device=like.device).masked_fill_(
        hidden, float("-inf")
    )


def memory_attention(
    module: nn.Module,
    query: Float[Tensor, "B Hq Q D"],
    key: Float[Tensor, "B Hkv T D"],
    value: Float[Tensor, "B Hkv T D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B Q Hq D"], None]:
    """Scaled dot-product attention in which every query sees all of the memory and its own causal past.

    Registered as ``hermes_memory``. Queries are turned to the layer's own clock
    where it is behind the shared one.

    Raises:
        UnsupportedModelError: the block asks for what is more than scaled dot products.
    """
    for name in _BEYOND.keys() & kwargs.keys():
        if kwargs[name] is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} asks its attention for {_BEYOND[name]} ({name}), which memory "
                "attention does not do: use a model without"
            )
    # Decoding in place needs no memory, and a compiled step cannot look into a context variable.
    scope = None if kwargs.get("in_place") else _current()
    queries, columns = query.shape[2], key.shape[2]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if scope is not None:
        scope.attended = True
        number = int(module.layer_idx)  # type: ignore[arg-type]
        held = scope.memory.read_by(number)
        if isinstance(held, KVLayer):
            query = held.rotary.canonical(query)
            if held.to_shared_clock is not None:
                cos, sin = held.to_shared_clock
                query = rotate_query(query, cos, -sin, key.shape[1], held.kernels)
            # A layer that borrows keys is not looked at.
            if held.index in scope.watched and held.number == number and scope.probe is not None:
                end = held.length
                parts = (query, key[:, :, :end], key[:, :, end:])
                of_chunk = (scope.chunk, scope.positions)
                scope.probe.observe(AttentionView(held.index, *parts, held, scaling, *of_chunk))
        if scope.writes_only and number == scope.memory.last_written:
            raise StopForwardError
    if attention_mask is not None and attention_mask.shape[-1] < columns:
        # A mask covers what follows the memory; the memory itself is visible to all.
        attention_mask = F.pad(attention_mask, (columns - attention_mask.shape[-1], 0), value=True)
    if queries == 1 and attention_mask is None:
        return _sdpa(query, key, value, None, scaling), None
    if attention_mask is None and queries == columns:
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2).contiguous(), None
    if attention_mask is None and _flash(query):
        # Flash attention is bottom-right causal by itself: no mask is made.
        bias = causal_lower_right(queries, columns)
        out = F.scaled_dot_product_attention(query, key, value, bias, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2).contiguous(), None
    if attention_mask is None:
        attention_mask = _shared_bias(scope, queries, columns, query)
    return _sdpa(query, key, value, attention_mask, scaling), None


def _flash(query: Tensor) -> bool:
    """Whether flash attention can take it; elsewhere an unmasked causal call would make ``[H, Q, T]``."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and half and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    if mask is not None and query.is_cuda and query.shape[1] > key.shape[1]:
        # Masked grouped-query attention falls to the math kernel on CUDA, which makes [H, Q, T].
        return folded_sdpa(query, key, value, mask, scaling)
    out = F.scaled_dot_product_attention(
        query, key, value, mask, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return out.transpose(1, 2).contiguous()


def folded_sdpa(
    query: Float[Tensor, "B Hq Q D"],
    key: Float[Tensor, "B Hkv T D"],
    value: Float[Tensor, "B Hkv T D"],
    mask: Tensor,
    scaling: float,
) -> Float[Tensor, "B Q Hq D"]:
    """Masked grouped-query attention with each group's heads as more queries of one KV head.

    Keys and values are read as they lie, where repeating them would write and read
    each one as many times as there are heads in a group. ``mask [*, Q, T]`` is the same for all heads.
    """
    heads, queries = query.shape[1:3]
    groups = heads // key.shape[1]
    folded = query.reshape(query.shape[0], key.shape[1], groups * queries, query.shape[3])
    mask = mask.repeat(*(1,) * (mask.ndim - 2), groups, 1)
    out = F.scaled_dot_product_attention(folded, key, value, mask, scale=scaling)
    return out.reshape(query.shape).transpose(1, 2).contiguous()


def _shared_bias(scope: AttentionScope | None, queries: int, columns: int, like: Tensor) -> Tensor:
    if scope is None:
        return causal_bias(queries, columns, like)
    key = (queries, columns, like.device)
    if key not in scope.masks:
        scope.masks[key] = causal_bias(queries, columns, like)
    return scope.masks[key]


def rotate_query(
    query: Float[Tensor, "B Hq Q D"], cos: Tensor, sin: Tensor, kv_heads: int, kernels: Kernels
) -> Float[Tensor, "B Hq Q D"]:
    """Rotate queries by angles ``[B, R, #Q, D/2]``; where R is the KV heads, each query group by its own."""
    if cos.shape[1] == 1:
        return kernels.rotate(query, cos, sin)
    return kernels.rotate(query.unflatten(1, (kv_heads, -1)), cos.unsqueeze(2), sin.unsqueeze(2)).flatten(
        1, 2
    )


AttentionInterface.register(NAME, memory_attention)
AttentionMaskInterface.register(NAME, memory_mask)


# How many running calls have set each decoder's attention, what it was before, and the rest of the model.
_installed: WeakKeyDictionary[Any, tuple[int, str, Found | None]] = WeakKeyDictionary()
# Decoders whose attention has been seen to follow their settings.
_settable: WeakSet[Any] = WeakSet()
_lock = Lock()


@contextmanager
def memory_attention_set(model: Any, *, whole: bool = True) -> Iterator[None]:
    """Let the text decoder of ``model`` use memory attention; the last one out restores what was set before.

    Contexts may nest and may run in several threads: sessions on one model do not disturb each other.

    Args:
        whole: also keep the rest of the model from changing, and in evaluation mode.

    Raises:
        UnsupportedModelError: the decoder's attention cannot be chosen.
    """
    decoder = model.get_decoder()
    with _lock:
        count, before, found = _installed.get(decoder, (0, "", None))
        if count == 0:
            before = _switched(decoder, NAME)
            found = Found(model) if whole else None
        _installed[decoder] = (count + 1, before, found)
    try:
        yield
    finally:
        with _lock:
            count = _installed.pop(decoder)[0] - 1
            if count:
                _installed[decoder] = (count, before, found)
            else:
                _switched(decoder, before)
                if found is not None:
                    found.restore()


@contextmanager
def attention_set(model: Any, name: str) -> Iterator[None]:
    """Let the text decoder of ``model`` use another attention of transformers', such as ``eager``, meanwhile.

    Raises:
        UnsupportedModelError: the decoder's attention cannot be chosen.
    """
    decoder = model.get_decoder()
    before = _switched(decoder, name)
    try:
        yield
    finally:
        _switched(decoder, before)


def _switched(decoder: Any, name: str) -> str:
    """Set the decoder's attention; what it was before.

    It is the decoder itself that is asked: the key of its part in the whole model's settings differs from
    family to family (``text_config``, ``llm_config``, none), and a wrong one is ignored without a word.
    """
    before: str = decoder.config._attn_implementation
    if decoder in _settable:
        # It walks over all modules, as long as a question may take.
        decoder.config._attn_implementation = name
        return before
    decoder.set_attn_implementation(name)
    if decoder.config._attn_implementation != name:
        raise UnsupportedModelError(
            f"the attention of {type(decoder).__name__} cannot be set to {name!r}: its code does "
            "not go through transformers' AttentionInterface"
        )
    _settable.add(decoder)
    return before
