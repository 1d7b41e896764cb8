"""Attention over the memory, registered with transformers, and what an attention probe may see of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from hermes.kernels.mass import attention_mass
from hermes.kernels.rotate import rotate

if TYPE_CHECKING:
    from hermes.memory import KVLayer, KVMemory
    from hermes.probe import AttentionProbe

NAME = "hermes_memory"


@dataclass(frozen=True)
class AttentionView:
    """One layer's attention as a probe sees it: queries over the memory and over themselves.

    Attributes:
        layer: layer index.
        query: ``[B, Hq, Q, D]``, rotated into the layer's own frame.
        memory: keys held before these queries, ``[B, Hkv, T, D]``.
        own: the keys that follow, ``[B, Hkv, P, D]``: of tokens not yet committed (a question's, while its
            answer is generated), then of the queries themselves; query i sees the first P - Q + i + 1.
        held: the memory's layer: positions and provenance of the T tokens, prefix length. It lives on: read
            it now.
        scaling: multiplies the logits.
    """

    layer: int
    query: Float[Tensor, "B Hq Q D"]
    memory: Float[Tensor, "B Hkv T D"]
    own: Float[Tensor, "B Hkv P D"]
    held: KVLayer
    scaling: float

    def mass(self, *, per_head: bool = False) -> Float[Tensor, "B R T"]:
        """Mean attention to each held token (see :func:`hermes.kernels.attention_mass`)."""
        return attention_mass(self.query, self.memory, self.own, scaling=self.scaling, per_head=per_head)


@dataclass
class Scope:
    """What is going through the decoder: the memory, a probe, and masks shared by the layers."""

    memory: KVMemory
    probe: AttentionProbe | None = None
    watched: frozenset[int] = frozenset()
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)


# Attention functions receive no cache, and `generate` passes on no keyword it does not know, so the memory
# of the running call is found here. A context variable is private to the thread and the call.
_scope: ContextVar[Scope | None] = ContextVar("hermes_attention_scope", default=None)


@contextmanager
def attending(memory: KVMemory, probe: AttentionProbe | None = None) -> Iterator[Scope]:
    """Run the decoder on ``memory`` inside this context; a probe sees the layers it asks for.

    The decoder's output is bit-identical with and without a probe; unprobed layers pay nothing.
    """
    watched = frozenset(probe.layers(len(memory.layers))) if probe is not None else frozenset()
    scope = Scope(memory, probe, watched)
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)


def in_scope(index: int, layer: KVLayer) -> bool:
    """Whether the running call attends over this layer."""
    scope = _scope.get()
    return scope is not None and scope.memory.layers[index] is layer


def memory_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """The mask transformers prepares for us: none, unless a batch is padded."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    kwargs["allow_is_causal_skip"] = False
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

    Source: this project. Registered as ``hermes_memory``. Queries are turned to the layer's own clock
    where it is behind the shared one.
    """
    scope = _scope.get()
    queries, columns = query.shape[2], key.shape[2]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if scope is not None:
        index = int(module.layer_idx)  # type: ignore[arg-type]
        held = scope.memory.layers[index]
        if held.turn is not None:
            cos, sin = held.turn
            query = rotate_query(query, cos, -sin, key.shape[1])
        if index in scope.watched and scope.probe is not None:
            end = held.length
            view = AttentionView(index, query, key[:, :, :end], key[:, :, end:], held, scaling)
            scope.probe.observe(view)
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
    if attention_mask is None and query.is_cuda:
        # Flash attention is bottom-right causal by itself: no mask is made.
        bias = causal_lower_right(queries, columns)
        out = F.scaled_dot_product_attention(query, key, value, bias, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2).contiguous(), None
    if attention_mask is None:
        attention_mask = _shared_bias(scope, queries, columns, query)
    return _sdpa(query, key, value, attention_mask, scaling), None


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if mask is not None and query.is_cuda and groups > 1:
        # Masked grouped-query attention falls to the math kernel on CUDA, which makes [H, Q, T].
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(
        query, key, value, mask, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return out.transpose(1, 2).contiguous()


def _shared_bias(scope: Scope | None, queries: int, columns: int, like: Tensor) -> Tensor:
    if scope is None:
        return causal_bias(queries, columns, like)
    found = scope.masks.get((queries, columns))
    if found is None:
        found = scope.masks[queries, columns] = causal_bias(queries, columns, like)
    return found


def rotate_query(
    query: Float[Tensor, "B Hq Q D"], cos: Tensor, sin: Tensor, kv_heads: int
) -> Float[Tensor, "B Hq Q D"]:
    """Rotate queries by angles ``[B, R, #Q, D/2]``; where R is the KV heads, each query group by its own."""
    if cos.shape[1] == 1:
        return rotate(query, cos, sin)
    return rotate(query.unflatten(1, (kv_heads, -1)), cos.unsqueeze(2), sin.unsqueeze(2)).flatten(1, 2)


AttentionInterface.register(NAME, memory_attention)
AttentionMaskInterface.register(NAME, memory_mask)


@contextmanager
def installed(model: Any) -> Iterator[None]:
    """Let the text decoder of ``model`` use memory attention; what was set before is restored on exit.

    Inside another such context for the same model it does nothing, so sessions on one model do not disturb
    each other.
    """
    before = model.config.get_text_config()._attn_implementation
    if before == NAME:
        yield
        return
    model.set_attn_implementation({"text_config": NAME})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})
