"""Plain, slow references that share nothing with the code under test but the model's own weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hermes.attention import attending, installed
from hermes.backbone import Backbone, BackboneConfig, Chunk
from hermes.loading import load_backbone
from hermes.memory import KVMemory
from hermes.positions import Rotary
from hermes.provenance import Kind, Provenance

FAMILIES = ("llava_onevision", "qwen2_5_vl", "qwen3_vl")


@cache
def tiny(family: str, dtype: str = "float32") -> Backbone:
    """A tiny random backbone, shared by all tests of a process: leave it as it is."""
    return load_backbone(BackboneConfig(family=f"tiny_{family}", dtype=dtype))  # type: ignore[arg-type]


# -- positions ---------------------------------------------------------------------------------------------


def axis_of_channel(sections: Sequence[int] | None, half: int, interleaved: bool) -> list[int]:
    """The position axis (time 0, height 1, width 2) of each channel pair, from the checkpoint's settings."""
    if sections is None:
        return [0] * half
    if not interleaved:
        return [axis for axis, size in enumerate(sections) for _ in range(size)]
    axes = [0] * half
    for axis in (1, 2):
        for channel in range(axis, 3 * sections[axis], 3):
            axes[channel] = axis
    return axes


def rope_settings(backbone: Backbone) -> tuple[list[float], list[int]]:
    """Frequency and axis of each channel pair, from the configuration alone."""
    config = backbone.text_config
    rope = config.rope_parameters
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequencies = [rope["rope_theta"] ** (-2 * c / dim) for c in range(dim // 2)]
    axes = axis_of_channel(rope.get("mrope_section"), dim // 2, bool(rope.get("mrope_interleaved")))
    return frequencies, axes


def rope(x: Tensor, positions: Tensor, frequencies: Sequence[float], axes: Sequence[int]) -> Tensor:
    """``x [..., T, D]`` rotated to ``positions [A, T]``, channel by channel, in float64."""
    out = x.double().clone()
    half = x.shape[-1] // 2
    for channel in range(half):
        angle = positions[axes[channel]].double() * frequencies[channel]
        a, b = x[..., channel].double(), x[..., channel + half].double()
        out[..., channel] = a * angle.cos() - b * angle.sin()
        out[..., channel + half] = b * angle.cos() + a * angle.sin()
    return out


def toy_rotary(axes: int, half: int = 4) -> Rotary:
    """Frequencies far from each other, channels spread over the axes."""
    return Rotary(0.9 ** torch.arange(half).float(), torch.arange(half) % axes, axes)


# -- attention ---------------------------------------------------------------------------------------------


def eager_mass(query: Tensor, memory: Tensor, own: Tensor | None, scaling: float, causal: bool) -> Tensor:
    """Attention ``[B, Hq, T]`` to the memory, mean over queries, from the whole matrix, in float64."""
    groups = query.shape[1] // memory.shape[1]
    keys = memory if own is None else torch.cat((memory, own), dim=2)
    logits = query.double() @ keys.double().repeat_interleave(groups, 1).mT * scaling
    if own is not None and causal:
        for i in range(query.shape[2]):
            logits[:, :, i, memory.shape[2] + i + 1 :] = float("-inf")
    return logits.softmax(-1)[..., : memory.shape[2]].mean(2)


# -- a decoder whose layers and heads hold what they like ------------------------------------------------------


@dataclass
class Head:
    """What one KV head of one layer holds: un-rotated keys and values ``[T, D]``, positions ``[A, T]``."""

    keys: Tensor
    values: Tensor
    positions: Tensor
    ids: list[int] = field(default_factory=list)
    mass: list[int] = field(default_factory=list)

    @property
    def clock(self) -> int:
        return int(torch.floor(self.positions.max())) + 1 if self.positions.numel() else 0


class DenseDecoder:
    """A decoder in plain float64 torch: every KV head of every layer has its own list of tokens.

    Text positions and masks are its own; of the model it uses weights, norms and feed-forward blocks.
    """

    def __init__(self, backbone: Backbone) -> None:
        import copy

        self.decoder: Any = copy.deepcopy(backbone.decoder).double()
        self.frequencies, self.axes = rope_settings(backbone)
        self.count_axes = backbone.axes
        config = backbone.text_config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = self.decoder.layers[0].self_attn.head_dim
        empty = (torch.zeros(0, self.width).double(), torch.zeros(0, self.width).double())
        self.layers = [
            [Head(*empty, torch.zeros(backbone.axes, 0)) for _ in range(self.kv_heads)]
            for _ in self.decoder.layers
        ]

    def project(self, index: int, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[Hq, n, D]``, keys and values ``[Hkv, n, D]`` of a layer's input, not rotated."""
        attention = self.decoder.layers[index].self_attn
        x = self.decoder.layers[index].input_layernorm(hidden)
        query = attention.q_proj(x).view(-1, self.heads, self.width)
        key = attention.k_proj(x).view(-1, self.kv_heads, self.width)
        value = attention.v_proj(x).view(-1, self.kv_heads, self.width)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query.transpose(0, 1).double(), key.transpose(0, 1).double(), value.transpose(0, 1).double()

    def run(
        self,
        embeds: Tensor,
        positions: Tensor,
        *,
        ids: Sequence[int] = (),
        write: bool = True,
        deepstack: Sequence[Tensor] = (),
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Tokens ``[n, hidden]`` at ``positions [A, n]``, relative to each head's own clock.

        Returns the final hidden states and, per layer and query head, attention ``[n, T + n]``.
        """
        hidden, seen = embeds.double(), []
        n = hidden.shape[0]
        for index, block in enumerate(self.decoder.layers):
            query, key, value = self.project(index, hidden)
            out, weights = torch.zeros(n, self.heads, self.width).double(), []
            for head in range(self.heads):
                kv = head * self.kv_heads // self.heads
                held = self.layers[index][kv]
                where = positions + held.clock
                own = rope(key[kv], where, self.frequencies, self.axes)
                past = rope(held.keys, held.positions, self.frequencies, self.axes)
                turned = rope(query[head], where, self.frequencies, self.axes)
                logits = turned @ torch.cat((past, own)).T / self.width**0.5
                for i in range(n):
                    logits[i, len(past) + i + 1 :] = float("-inf")
                attention = logits.softmax(-1)
                weights.append(attention)
                out[:, head] = attention @ torch.cat((held.values, value[kv]))
            seen.append(weights)
            if write:
                for kv, held in enumerate(self.layers[index]):
                    where = positions + held.clock
                    held.keys, held.values = torch.cat((held.keys, key[kv])), torch.cat((held.values, value[kv]))
                    held.positions = torch.cat((held.positions, where), dim=1)
                    held.ids = [*held.ids, *ids]
                    held.mass = [*held.mass, *[1] * n]
            hidden = hidden + block.self_attn.o_proj(out.flatten(1))
            hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
            if index < len(deepstack):
                hidden = hidden + deepstack[index].double()
        return self.decoder.norm(hidden), seen

    def keep(self, index: int, kv: int, slots: Sequence[int]) -> None:
        """Evict everything else from one head."""
        held, at = self.layers[index][kv], list(slots)
        held.keys, held.values, held.positions = held.keys[at], held.values[at], held.positions[:, at]
        held.ids, held.mass = [held.ids[i] for i in at], [held.mass[i] for i in at]

    def mixed(self, index: int, kv: int, slots: Sequence[int], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Weighted mean of un-rotated keys and of values: a mean of keys turned to one position is that, turned."""
        held, w = self.layers[index][kv], torch.tensor(weights).double()[:, None]
        return (held.keys[list(slots)] * w).sum(0), (held.values[list(slots)] * w).sum(0)

    def append(self, index: int, kv: int, key: Tensor, value: Tensor, token: int, mass: int) -> None:
        """A new token one behind the largest position, on every axis."""
        held = self.layers[index][kv]
        place = held.positions.max() + 1 if held.positions.numel() else torch.tensor(0.0)
        held.keys, held.values = torch.cat((held.keys, key[None])), torch.cat((held.values, value[None]))
        held.positions = torch.cat((held.positions, place.expand(self.count_axes, 1)), dim=1)
        held.ids.append(token)
        held.mass.append(mass)

    def compact(self, prefix: int) -> None:
        """Positions after the prefix become ranks among the distinct values, axis by axis."""
        for layer in self.layers:
            for held in layer:
                for axis in range(self.count_axes):
                    values = held.positions[axis, prefix:].tolist()
                    ranks = {value: rank for rank, value in enumerate(sorted(set(values)))}
                    held.positions[axis, prefix:] = torch.tensor([float(prefix + ranks[v]) for v in values])


# -- streams of embeddings ----------------------------------------------------------------------------------------


def noise_chunk(
    backbone: Backbone, length: int, seed: int, *, first_id: int = 0, batch: int = 1, frames: int = 4, grid: bool = True
) -> Chunk:
    """A chunk of random embeddings; with M-RoPE axes on a grid of 2 rows, times 1.5 apart."""
    generator = torch.Generator().manual_seed(seed)
    scale = backbone.model.get_input_embeddings().weight.std()
    embeds = torch.randn(batch, length, backbone.text_config.hidden_size, generator=generator) * scale
    at = torch.arange(length)
    positions = at[None].float()
    if backbone.axes == 3:
        positions = torch.stack((at // 6 * 1.5, at // 3 % 2, at % 3)) if grid else positions.expand(3, -1)
    positions = positions.float()
    tokens = Provenance.of(
        length, id=first_id + at, frame=at * frames // max(length, 1), kind=int(Kind.VISUAL), time_us=at
    )
    return Chunk(embeds, positions, int(positions.max()) + 1, tokens, frames)


def prefill(backbone: Backbone, memory: KVMemory, chunk: Chunk, *, prefix: bool = False, probe: Any = None) -> Tensor:
    """Run a chunk through the model on top of the memory, and commit it; final hidden states ``[B, n, hidden]``."""
    batch = chunk.embeds.shape[0]
    positions = (memory.next_position + chunk.positions)[:, None].expand(-1, batch, -1)
    with torch.no_grad(), installed(backbone.model), attending(memory, probe):
        out = backbone.decoder(
            inputs_embeds=chunk.embeds,
            position_ids=positions[0] if backbone.axes == 1 else positions,
            past_key_values=memory,
            use_cache=True,
            **backbone.prefill_kwargs(chunk),
        )
    memory.commit(chunk.positions, chunk.tokens, chunk.advance, prefix=prefix)
    hidden: Tensor = out.last_hidden_state
    return hidden


def new_memory(backbone: Backbone, **options: Any) -> KVMemory:
    return KVMemory(backbone.num_layers, backbone.rotary, **options)


def cloned(memory: KVMemory) -> list[Tensor]:
    return [tensor.clone() for tensor in memory.state()]


def identical(memory: KVMemory, before: list[Tensor]) -> bool:
    now = memory.state()
    return len(now) == len(before) and all(torch.equal(a, b) for a, b in zip(now, before, strict=True))


def counting(modules: Sequence[Any]) -> tuple[list[int], Callable[[], None]]:
    """Indices of the modules as they run, and a function that stops counting."""
    ran: list[int] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
        for index, module in enumerate(modules)
    ]
    return ran, lambda: [handle.remove() for handle in handles] and None
