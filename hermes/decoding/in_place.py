"""Decoding in place: a preallocated fork of the memory, and a decode step of fixed shapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from hermes.attention import causal_bias, memory_attention
from hermes.backbone import Backbone
from hermes.decoding.generation import (
    Draws,
    Generated,
    GenerationConfig,
    TokenClock,
    chooser,
    stop_tokens,
)
from hermes.decoding.layerwise import LayerwiseDecoder, clocks_of, rotary_at, run_block
from hermes.memory import KVMemory
from hermes.tokens import expand_axes

Mode = Literal["static", "compile"]
# Capacities are rounded up, so that questions of different lengths share buffers and compiled steps.
_ROUND = 128


class InPlaceDecoder:
    """Answers from a private copy of the memory whose buffers are written in place.

    ``generate`` on a fork concatenates keys and values at every token; a fixed budget
    means a fixed capacity. Every layer runs at its own clock from the start, by rotary embeddings of its own,
    so neither queries nor keys are turned afterwards.

    With ``compile`` a decode step sees the whole capacity under a mask and its shapes never change, so one
    compiled function (CUDA graphs on a GPU) serves every token of every question. The question itself is
    prefilled eagerly: its length varies.

    Args:
        backbone: a loaded model family.
        mode: ``static``, or ``compile``.
        layerwise: what is known of the backbone's layers; found out by default.
    """

    def __init__(
        self, backbone: Backbone, mode: Mode = "static", layerwise: LayerwiseDecoder | None = None
    ) -> None:
        self.backbone = backbone
        self.layerwise = layerwise or LayerwiseDecoder(backbone)
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
        first = memory.managed[0].keys
        shape = (first.shape[0], first.shape[1], self._capacity(room), first.shape[3])
        if not self.keys or self.keys[0].shape != shape:
            self.keys = [layer.keys.new_zeros(shape) for layer in memory.managed]
            self.values = [torch.zeros_like(part) for part in self.keys]
            self._step = None
            if self.mode == "compile":
                for part in (*self.keys, *self.values):
                    # CUDA graphs replay on fixed addresses.
                    torch._dynamo.mark_static_address(part)
        for index, layer in enumerate(memory.managed):
            self.keys[index][:, :, : layer.length] = layer.keys
            self.values[index][:, :, : layer.length] = layer.values
        if memory.clock_mode == "per_layer":
            self.clocks = clocks_of(memory.managed)
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

    def _attend(
        self, layer: int, module: Any, mask: Tensor | None, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        keys, values = self._write(layer, key, value)
        return memory_attention(module, query, keys, values, mask, module.scaling, in_place=True)[0]

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
        """Read one more token; returns the logits of the next."""
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
        return rotary_at(rotary, expand_axes(positions, rotary.axes), dtype)

    def _layers(self, hidden: Tensor, cos: Tensor, sin: Tensor, masks: list[Any]) -> Tensor:
        blocks: Any = self.backbone.decoder.layers
        for index, block in enumerate(blocks):
            attend = partial(self._attend, index, block.self_attn, masks[index])
            hidden = run_block(block, hidden, cos[index], sin[index], attend)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        norm: Any = self.backbone.decoder.norm
        logits: Tensor = self.backbone.model.lm_head(norm(hidden[:, -1]))
        return logits


def reason_not_in_place(
    decoder: InPlaceDecoder, memory: KVMemory, *, beams: int, probe: object, options: Mapping[str, Any]
) -> str | None:
    """Why this question cannot be answered in place; None where it can."""
    if beams > 1:
        return "beam search reorders the cache"
    if probe is not None:
        return "a probe watches the question's attention"
    if options:
        return f"generate was given {', '.join(sorted(options))}"
    return decoder.layerwise.reason_not(memory)


def generate_in_place(
    decoder: InPlaceDecoder,
    memory: KVMemory,
    ids: Int[Tensor, "1 q"],
    config: GenerationConfig,
    *,
    started: float | None = None,
    on_text: Callable[[str], None] | None = None,
    seed: int = 0,
    processors: Sequence[LogitsProcessor] = (),
) -> Generated:
    """Greedy decoding or sampling in preallocated buffers; the memory itself stays as it is.

    Arguments and result are those of :func:`hermes.decoding.generation.generate`.
    """
    model = decoder.backbone.model
    clock = TokenClock(decoder.backbone, on_text)
    started = time.perf_counter() if started is None else started
    decoder.load(memory, ids.shape[1] + config.max_new_tokens)
    choose, ends = chooser(config, processors, ids.shape[1], Draws(seed)), stop_tokens(model)
    clock.put(ids)
    logits = decoder.prefill(ids)
    first, everything = logits[0].float(), ids
    while True:
        token = choose(everything, logits)
        everything = torch.cat((everything, token), dim=1)
        # The host must know the token, to stream it and to stop.
        value = token.cpu()
        clock.put(value)
        if int(value) in ends or len(clock.times) == config.max_new_tokens:
            break
        logits = decoder.step(token)
    clock.end()
    times = clock.times
    tpot = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
    return Generated(everything[0, ids.shape[1] :], first, times[0] - started, tpot)
