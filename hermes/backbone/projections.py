"""Queries and keys of a decoder layer, taken from its own code, whatever norms and gates that has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache

from hermes.attention import (
    AttentionProbe,
    AttentionView,
    StopForwardError,
    memory_attention_set,
    reading,
)
from hermes.memory import KVMemory
from hermes.tokens import Rotary

__all__ = ["Projections"]


class _Backbone(Protocol):
    """What of a backbone is needed here."""

    axes: int
    model: Any

    @property
    def managed(self) -> tuple[int, ...]: ...

    @property
    def rotary(self) -> Rotary: ...

    @property
    def decoder(self) -> Any: ...

    @property
    def text_config(self) -> Any: ...

    def embed(self, ids: Int[Tensor, "B n"]) -> Float[Tensor, "B n hidden"]: ...

    def run(self, embeds: Tensor, positions: Tensor, cache: Any) -> Any: ...

    def new_memory(self) -> KVMemory: ...


class _Taken(AttentionProbe):
    """Takes a layer's queries and keys, and leaves the decoder."""

    query: Tensor
    key: Tensor
    scaling: float

    def observe(self, view: AttentionView) -> None:
        """Take them."""
        self.query, self.key, self.scaling = view.query, view.own, view.scaling
        raise StopForwardError


@dataclass(frozen=True)
class _Call:
    """How the decoder calls one of its layers for a token at position 0, which no rotation turns.

    Attributes:
        arguments, options: what it is given besides hidden states and the cache.
        cache: the name by which it is given that.
    """

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    cache: str


class Projections:
    """Queries and keys of managed layers before rotation.

    A layer of the plain kind is run piece by piece. Any other is called as the decoder calls it, as far as
    its attention, with a token's rotation at position 0.

    Args:
        backbone: a loaded model family.
    """

    def __init__(self, backbone: _Backbone) -> None:
        self.backbone = backbone

    def __call__(self, layer: int, hidden: Float[Tensor, "B n hidden"]) -> tuple[Tensor, Tensor]:
        """Queries ``[B, Hq, n, D]`` and keys ``[B, Hkv, n, D]``, channels in rotary order."""
        return (self._pieces if self.plain else self._called)(layer, hidden)

    @cached_property
    @torch.no_grad()
    def scalings(self) -> list[float]:
        """The factor of every managed layer's scores."""
        token = self.backbone.embed(torch.zeros(1, 1, dtype=torch.long))
        return [self._taken(layer, token).scaling for layer in range(len(self.backbone.managed))]

    @cached_property
    @torch.no_grad()
    def plain(self) -> bool:
        """Whether every managed layer's own code gives what its pieces do, one by one."""
        if self.backbone.rotary.order is not None or self.backbone.rotary.each:
            return False
        hidden = self.backbone.embed(torch.arange(2)[None])
        for layer in range(len(self.backbone.managed)):
            try:
                pieces = self._pieces(layer, hidden)
            except (AttributeError, RuntimeError, TypeError):
                return False
            for ours, theirs in zip(pieces, self._called(layer, hidden), strict=True):
                allowed = 16 * torch.finfo(theirs.dtype).eps * theirs.abs().max()
                if ours.shape != theirs.shape or not (ours - theirs).abs().max() <= allowed:
                    return False
        return True

    def _pieces(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        block: Any = self.backbone.decoder.layers[self.backbone.managed[layer]]
        attention = block.self_attn
        # Called piece by piece, no hook moves its input to where the layer is.
        x = block.input_layernorm(hidden.to(block.input_layernorm.weight.device))
        shape = (*x.shape[:-1], -1, attention.head_dim)
        query = attention.q_proj(x).view(shape)
        key = attention.k_proj(x).view(shape)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query.transpose(1, 2), key.transpose(1, 2)

    def _called(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        rotary, taken = self.backbone.rotary.layer(layer), self._taken(layer, hidden)
        return rotary.unstretched(taken.query), rotary.unstretched(taken.key)

    def _taken(self, layer: int, hidden: Tensor) -> _Taken:
        backbone, number, taken = self.backbone, self.backbone.managed[layer], _Taken()
        block, call = backbone.decoder.layers[number], self._calls[number]
        memory = backbone.new_memory()
        hidden = hidden.to(next(block.parameters()).device)
        with (
            memory_attention_set(backbone.model),
            reading(memory, taken) as scope,
            suppress(StopForwardError),
        ):
            # Layers before this one are left out.
            scope.attended = True
            block(hidden, *call.arguments, **{**call.options, call.cache: memory})
        return taken

    @cached_property
    @torch.no_grad()
    def _calls(self) -> Mapping[int, _Call]:
        """How managed layers are called, by number: one token is run."""
        backbone, found = self.backbone, dict[int, _Call]()

        def noting(number: int) -> Callable[..., None]:
            def note(block: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
                cache = next(name for name, value in options.items() if isinstance(value, Cache))
                # Hidden states come first, by position or by name.
                kept = {
                    name: value for name, value in options.items() if name not in ("hidden_states", cache)
                }
                found[number] = _Call(arguments[1:], {**kept, "attention_mask": None}, cache)

            return note

        blocks = backbone.decoder.layers
        handles = [
            blocks[number].register_forward_pre_hook(noting(number), with_kwargs=True)
            for number in backbone.managed
        ]
        try:
            with memory_attention_set(backbone.model):
                embeds = backbone.embed(torch.zeros(1, 1, dtype=torch.long))
                backbone.run(embeds, torch.zeros(backbone.axes, 1), DynamicCache(config=backbone.text_config))
        finally:
            for handle in handles:
                handle.remove()
        return found
