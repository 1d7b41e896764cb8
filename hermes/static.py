"""Decoding in place: a preallocated fork of the memory, and a decode step of fixed shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.attention import causal_bias, installed, memory_attention
from hermes.backbone import Backbone
from hermes.memory import KVMemory
from hermes.positions import expand_axes

Mode = Literal["static", "compile"]
# Capacities are rounded up, so that questions of different lengths share buffers and compiled steps.
_ROUND = 128


class StaticDecoder:
    """Answers from a private copy of the memory whose buffers are written in place.

    Source: this project. ``generate`` on a fork concatenates keys and values at every token; a fixed budget
    means a fixed capacity. Every layer runs at its own clock from the start, by rotary embeddings of its own,
    so neither queries nor keys are turned afterwards.

    With ``compile`` a decode step sees the whole capacity under a mask and its shapes never change, so one
    compiled function (CUDA graphs on a GPU) serves every token of every question. The question itself is
    prefilled eagerly: its length varies.

    Args:
        backbone: a loaded model family.
        mode: ``static``, or ``compile``.
    """

    def __init__(self, backbone: Backbone, mode: Mode = "static") -> None:
        self.backbone = backbone
        self.mode = mode
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths: list[int] = []
        self.filled = 0
        self.fixed = False
        self._step: Any = None

    def load(self, memory: KVMemory, room: int) -> None:
        """Copy ``memory`` into the buffers, with room for ``room`` tokens more; its own tensors stay."""
        self.lengths = memory.lengths
        first = memory.layers[0].keys
        shape = (first.shape[0], first.shape[1], self._capacity(room), first.shape[3])
        if not self.keys or self.keys[0].shape != shape:
            self.keys = [layer.keys.new_zeros(shape) for layer in memory.layers]
            self.values = [torch.zeros_like(part) for part in self.keys]
            self._step = None
            if self.mode == "compile":
                for part in (*self.keys, *self.values):
                    # CUDA graphs replay on fixed addresses.
                    torch._dynamo.mark_static_address(part)
        for index, layer in enumerate(memory.layers):
            self.keys[index][:, :, : layer.length] = layer.keys
            self.values[index][:, :, : layer.length] = layer.values
        if memory.clock_mode == "per_layer":
            clocks = [layer.clock[:, 0].to(first.device) for layer in memory.layers]
            # [L, B]
            self.clocks = torch.stack(clocks).float()
        else:
            self.clocks = torch.full((len(self.lengths), shape[0]), float(memory.next_position))
            self.clocks = self.clocks.to(first.device)
        self.starts = torch.tensor(self.lengths, device=first.device)
        self.filled, self.fixed = 0, False

    def _capacity(self, room: int) -> int:
        return -(-(max(self.lengths) + room) // _ROUND) * _ROUND

    def _write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values in place; returns what its queries read."""
        keys, values = self.keys[layer], self.values[layer]
        if self.fixed:
            slot = self._slots[layer : layer + 1]
            keys.index_copy_(2, slot, key)
            values.index_copy_(2, slot, value)
            return keys, values
        start = self.lengths[layer] + self.filled
        stop = start + key.shape[2]
        keys[:, :, start:stop] = key
        values[:, :, start:stop] = value
        return keys[:, :, :stop], values[:, :, :stop]

    # -- the two kinds of forward ---------------------------------------------------------------------------

    @torch.no_grad()
    def prefill(self, ids: Int[Tensor, "B q"]) -> Float[Tensor, "B vocab"]:
        """The question through the decoder; logits of its last token."""
        hidden = self.backbone.embed(ids)
        count = hidden.shape[1]
        # Flash attention is bottom-right causal by itself: no mask is made.
        needed = {} if hidden.is_cuda else dict.fromkeys(self.lengths)
        masks = {length: causal_bias(count, length + count, hidden) for length in needed}
        cos, sin = self._rotary(torch.arange(count, device=hidden.device), hidden.dtype)
        hidden = self._layers(hidden, cos, sin, [masks.get(length) for length in self.lengths])
        self.filled = count
        return self._logits(hidden)

    @torch.no_grad()
    def step(self, ids: Int[Tensor, "B 1"]) -> Float[Tensor, "B vocab"]:
        """One more token; logits of the next."""
        hidden = self.backbone.embed(ids)
        filled = torch.tensor([self.filled], device=hidden.device)
        if self.mode == "compile":
            if self._step is None:
                self._step = torch.compile(
                    self._fixed_step, dynamic=False, mode="reduce-overhead" if hidden.is_cuda else None
                )
            self.fixed = True
            logits: Tensor = self._step(hidden, filled, self.starts, self.clocks)
            # A CUDA graph's output is overwritten by its next replay.
            logits = logits.clone() if hidden.is_cuda else logits
            self.fixed = False
        else:
            cos, sin = self._rotary(filled, hidden.dtype)
            logits = self._logits(self._layers(hidden, cos, sin, [None] * len(self.lengths)))
        self.filled += 1
        return logits

    def _fixed_step(self, hidden: Tensor, filled: Tensor, starts: Tensor, clocks: Tensor) -> Tensor:
        self._slots = starts + filled
        columns = torch.arange(self.keys[0].shape[2], device=hidden.device)
        # [L, 1, cap]
        seen = (columns <= self._slots[:, None])[:, None]
        cos, sin = self._rotary(filled, hidden.dtype, clocks)
        return self._logits(self._layers(hidden, cos, sin, list(seen.unbind())))

    def _rotary(
        self, steps: Tensor, dtype: torch.dtype, clocks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[L, B, 1, q, D]`` at every layer's own clock plus ``steps [q]``."""
        positions = (self.clocks if clocks is None else clocks)[..., None] + steps
        rotary = self.backbone.rotary
        angles = rotary.angles(expand_axes(positions, rotary.axes))
        cos, sin = (torch.cat((x, x), dim=-1).mul(rotary.scaling).to(dtype) for x in angles)
        return cos.unsqueeze(2), sin.unsqueeze(2)

    def _layers(self, hidden: Tensor, cos: Tensor, sin: Tensor, masks: list[Any]) -> Tensor:
        blocks: Any = self.backbone.decoder.layers
        for index, block in enumerate(blocks):
            write = partial(self._write, index)
            hidden = _block(block, hidden, cos[index], sin[index], masks[index], write)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        norm: Any = self.backbone.decoder.norm
        logits: Tensor = self.backbone.model.lm_head(norm(hidden[:, -1]))
        return logits

    @cached_property
    def serves(self) -> bool:
        """Whether this decoder's layers can be run in place."""
        return same_blocks(self.backbone)


def _block(
    block: Any,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor | None,
    write: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """One decoder layer of the Qwen kind, from its own modules.

    transformers' own forward runs hooks that cannot be compiled outside of the whole model's forward.
    """
    attention, x = block.self_attn, block.input_layernorm(hidden)
    shape = (*x.shape[:-1], -1, attention.head_dim)
    query, key = attention.q_proj(x).view(shape), attention.k_proj(x).view(shape)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = (_turn(part.transpose(1, 2), cos, sin) for part in (query, key))
    keys, values = write(key, attention.v_proj(x).view(shape).transpose(1, 2))
    seen, _ = memory_attention(attention, query, keys, values, mask, attention.scaling, in_place=True)
    hidden = hidden + attention.o_proj(seen.flatten(2))
    out: Tensor = hidden + block.mlp(block.post_attention_layernorm(hidden))
    return out


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotation in the model's dtype, as the model itself does it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


@torch.no_grad()
def same_blocks(backbone: Backbone) -> bool:
    """Whether the decoder's layers compute what :func:`_block` does: the first is tried (this project)."""
    generator = torch.Generator().manual_seed(0)
    width, axes = backbone.text_config.hidden_size, backbone.rotary.axes
    hidden = torch.randn(1, 4, width, generator=generator).to(backbone.device, backbone.dtype)
    positions = torch.arange(4.0, device=hidden.device)[None]
    module, blocks = backbone.decoder.rotary_emb, backbone.decoder.layers
    rotary = module(hidden, expand_axes(positions, axes) if axes > 1 else positions)  # type: ignore[operator]
    block: Any = blocks[0]  # type: ignore[index]
    try:
        with installed(backbone.model):
            wanted = block(hidden, attention_mask=None, position_embeddings=rotary, past_key_values=None)
        static = StaticDecoder(backbone)
        static.clocks = torch.zeros(1, 1, device=hidden.device)
        cos, sin = static._rotary(positions[0], hidden.dtype)
        ours = _block(block, hidden, cos[0], sin[0], None, lambda key, value: (key, value))
    except (AttributeError, TypeError, RuntimeError):
        return False
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    worst = (ours.float() - wanted.float()).abs().max()
    return bool(worst <= 16 * torch.finfo(hidden.dtype).eps * wanted.float().abs().max())


def refusal(
    static: StaticDecoder, memory: KVMemory, *, beams: int, probe: object, options: dict[str, Any]
) -> str | None:
    """Why this question cannot be answered in place; None where it can (this project)."""
    if beams > 1:
        return "beam search reorders the cache"
    if probe is not None:
        return "a probe watches the question's attention"
    if options:
        return f"generate was given {', '.join(sorted(options))}"
    if any(layer.rows > 1 for layer in memory.layers):
        return "KV heads hold tokens at positions of their own"
    if len({layer.keys.device for layer in memory.layers}) > 1:
        return "the layers are on several devices"
    if not static.serves:
        return "the decoder's layers are not of the kind that is decoded in place"
    return None
