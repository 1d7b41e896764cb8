"""Attention of a pseudo-query with every layer at its own clock, so that nothing is asked of the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hermes.attention import AttentionProbe, AttentionView, causal_bias, memory_attention
from hermes.decoding.layerwise import clocks_of, rotary_at, run_block
from hermes.decoding.observer import DecoderObserver, Layer
from hermes.memory import KVMemory
from hermes.tokens import expand_axes


class LayerwiseObserver(DecoderObserver):
    """An observer that asks the host for nothing: every layer is run at its own clock.

    What it observes is the same, up to rounding. Its memory's layers must be such as
    :meth:`.LayerwiseDecoder.reason_not` has nothing against.
    """

    @staticmethod
    def like(other: DecoderObserver, memory: KVMemory) -> LayerwiseObserver:
        """One over another memory, which knows the pseudo-queries of ``other``."""
        made = LayerwiseObserver(other.backbone, memory)
        made.texts = other.texts.copy()
        return made

    def over(self, memory: KVMemory) -> DecoderObserver:
        """An observer of the same kind over another memory."""
        return self.like(self, memory)

    @contextmanager
    def _layers(self, hidden: Tensor, steps: Tensor, watch: AttentionProbe) -> Iterator[Layer]:
        """The layers' modules one by one, over the memory as it is."""
        rotary = self.backbone.rotary
        blocks: Any = self.backbone.decoder.layers
        positions = clocks_of(self.memory.managed)[..., None] + steps
        cos, sin = rotary_at(rotary, expand_axes(positions, rotary.axes), hidden.dtype)

        def layer(index: int, hidden: Tensor, mask: Tensor | None) -> Tensor:
            rows, held = hidden.shape[1], self.memory.managed[index]
            block = blocks[index]
            own = block.self_attn

            def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                memory = held.keys[:, :, : held.length]
                watch.observe(AttentionView(index, query, memory, key, held, own.scaling))
                keys = torch.cat((memory, key), dim=2)
                values = torch.cat((held.values[:, :, : held.length], value), dim=2)
                bias = causal_bias(rows, keys.shape[2], query) if mask is None else mask
                return memory_attention(own, query, keys, values, bias, own.scaling, in_place=True)[0]

            return run_block(block, hidden, cos[index, :, :, :rows], sin[index, :, :, :rows], attend)

        yield layer
