"""A tiny random decoder of windows and full attention, one after the other, and a dense reference of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from hermes.backbone import Backbone, BackboneConfig
from hermes.backbones.tiny import TinyLlavaOnevision
from tests.support.references import DenseDecoder, Head, PlainMemory, rope

WINDOW = 7


class TinyWindowed(TinyLlavaOnevision):
    """Four layers, of which 1 and 3 are managed; windows are smaller than a frame."""

    text: ClassVar[dict[str, Any]] = {
        **TinyLlavaOnevision.text,
        "num_hidden_layers": 4,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }


@cache
def tiny_windowed(layout: str = "stream") -> Backbone:
    """Shared by all tests of a process: leave it as it is."""
    return TinyWindowed.load(BackboneConfig(layout=layout))  # type: ignore[arg-type]


class DenseWindowed(DenseDecoder):
    """The decoder in plain float64: a window layer keeps all of the stream, and masks by counting tokens."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.numbers = backbone.managed
        count = len(self.decoder.layers)
        self.memory = PlainMemory(len(self.numbers), self.kv_heads, self.width, backbone.axes)
        self.stream = PlainMemory(count, self.kv_heads, self.width, backbone.axes)

    def _windowed(
        self, heads: Sequence[Head], query: Tensor, key: Tensor, value: Tensor, at: Tensor
    ) -> Tensor:
        out, held = [], len(heads[0].ids)
        seen = (
            torch.ones(len(key[0]), held + len(key[0]), dtype=torch.bool).tril(held).triu(held - WINDOW + 1)
        )
        for number in range(self.heads):
            head = heads[number * self.kv_heads // self.heads]
            own, where = key[number * self.kv_heads // self.heads], at + head.clock
            past = rope(head.keys, head.positions, self.frequencies, self.axes)
            keys = torch.cat((past, rope(own, where, self.frequencies, self.axes)))
            logits = rope(query[number], where, self.frequencies, self.axes) @ keys.T / self.width**0.5
            weights = logits.masked_fill(~seen, float("-inf")).softmax(-1)
            out.append(weights @ torch.cat((head.values, value[number * self.kv_heads // self.heads])))
        return torch.cat(out, dim=-1)

    @torch.no_grad()
    def run(
        self,
        embeds: Tensor,
        positions: Tensor,
        ids: Sequence[int] | None = None,
        deepstack: Sequence[Tensor] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """As the plain decoder's; every token is written."""
        hidden, seen, ids = embeds.double(), [], ids or [-1] * len(embeds)
        for number, block in enumerate(self.decoder.layers):
            query, key, value = self.project(number, hidden)
            if number in self.numbers:
                index = self.numbers.index(number)
                weights, heads = self.attention(index, query, key, positions), self.memory.layers[index]
                seen.append(weights)
                groups = [head * self.kv_heads // self.heads for head in range(self.heads)]
                values = [torch.cat((heads[kv].values, value[kv])) for kv in groups]
                out = torch.cat([weight @ part for weight, part in zip(weights, values, strict=True)], dim=-1)
            else:
                heads = self.stream.layers[number]
                out = self._windowed(heads, query, key, value, positions)
            for kv, head in enumerate(heads):
                head.write(key[kv], value[kv], positions + head.clock, ids, [1] * len(ids))
            hidden = hidden + block.self_attn.o_proj(out)
            hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
        return self.decoder.norm(hidden), seen
