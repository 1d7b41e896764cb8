"""Plain, slow references that share nothing with the code under test but the model's own weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hermes.attention import memory_attention_set, reading
from hermes.backbone import Backbone, BackboneConfig, load_backbone
from hermes.memory import KVMemory, LayerUpdate
from hermes.tokens import Chunk, Provenance, Rotary, TokenKind
from tests.support.tolerances import close

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


# -- a memory whose layers and heads hold what they like ---------------------------------------------------


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

    def write(
        self, keys: Tensor, values: Tensor, positions: Tensor, ids: Sequence[int], mass: Sequence[int]
    ) -> None:
        self.keys = torch.cat((self.keys, keys.double()))
        self.values = torch.cat((self.values, values.double()))
        self.positions = torch.cat((self.positions, positions.float()), dim=1)
        self.ids, self.mass = [*self.ids, *ids], [*self.mass, *mass]


class PlainMemory:
    """One stream's memory as lists, with every head on its own; keys are never rotated in it."""

    def __init__(self, layers: int, heads: int, width: int, axes: int, stream: int = 0) -> None:
        def empty() -> Head:
            none = torch.zeros(0, width).double()
            return Head(none, none, torch.zeros(axes, 0))

        self.layers = [[empty() for _ in range(heads)] for _ in range(layers)]
        self.axes, self.stream, self.prefix, self.next_summary = axes, stream, 0, -2

    def apply(self, updates: Mapping[int, LayerUpdate], compact: bool) -> None:
        """What :meth:`KVMemory.apply` promises, token by token."""
        for index, layer in enumerate(self.layers):
            for number, head in enumerate(layer):
                update = updates.get(index)
                new = [] if update is None else self._mixed(head, update, number)
                if update is not None:
                    at = self._row(update.keep, number)
                    head.keys, head.values, head.positions = (
                        head.keys[at],
                        head.values[at],
                        head.positions[:, at],
                    )
                    head.ids, head.mass = [head.ids[i] for i in at], [head.mass[i] for i in at]
                    targets = update.mix.targets if update.mix is not None else None
                    for token, slot in zip(
                        new, [] if targets is None else self._row(targets, number), strict=False
                    ):
                        place = at.index(slot)
                        head.keys[place], head.values[place] = token[0], token[1]
                        head.ids[place], head.mass[place] = token[2], token[3]
                    new = new if targets is None else []
                if compact:
                    self._compact(head)
                for key, value, token, mass in new:
                    place = head.positions.max() + 1
                    head.write(key[None], value[None], place.expand(self.axes, 1), [token], [mass])
        sizes = [update.mix.size for update in updates.values() if update.mix is not None]
        self.next_summary -= max(sizes, default=0)

    def _row(self, table: Tensor, head: int) -> list[Any]:
        rows = table[min(self.stream, table.shape[0] - 1)]
        return list(rows[min(head, rows.shape[0] - 1)].tolist())

    def _mixed(self, head: Head, update: LayerUpdate, number: int) -> list[tuple[Tensor, Tensor, int, int]]:
        """Turning keys to one position and mixing them is mixing them, and turning the mix."""
        if update.mix is None:
            return []
        members, weights = self._row(update.mix.members, number), self._row(update.mix.weights, number)
        groups = [0] * len(members) if update.mix.groups is None else self._row(update.mix.groups, number)
        out = []
        for group in range(update.mix.size):
            mine = [i for i, other in enumerate(groups) if other == group]
            key = sum(weights[i] * head.keys[members[i]] for i in mine)
            value = sum(weights[i] * head.values[members[i]] for i in mine)
            mass = sum(head.mass[members[i]] for i in mine)
            out.append((torch.as_tensor(key), torch.as_tensor(value), self.next_summary - group, mass))
        return out

    def _compact(self, head: Head) -> None:
        for axis in range(self.axes):
            values = head.positions[axis, self.prefix :].tolist()
            rank = {value: place for place, value in enumerate(sorted(set(values)))}
            head.positions[axis, self.prefix :] = torch.tensor([float(self.prefix + rank[v]) for v in values])


def same_memory(
    memory: KVMemory, plain: PlainMemory, frequencies: Sequence[float], axes: Sequence[int]
) -> None:
    """Assert that a memory holds what a plain one does, its keys rotated from scratch."""
    stream = plain.stream
    for layer, heads in zip(memory, plain.layers, strict=True):
        for number, head in enumerate(heads):
            row = number if layer.rows > 1 else 0
            assert layer.origin.id[stream, row].tolist() == head.ids
            assert layer.origin.weight[stream, row].tolist() == head.mass
            assert torch.equal(layer.positions[:, stream, row], head.positions)
            expected = rope(head.keys, head.positions, frequencies, axes)
            close("kept_keys", layer.keys[stream, number], expected)
            close("kept_values", layer.values[stream, number], head.values)


class DenseDecoder:
    """A decoder in plain float64 torch over a :class:`PlainMemory`.

    Positions and masks are its own; of the model it uses weights, norms and feed-forward blocks.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.decoder: Any = copy.deepcopy(backbone.decoder).double()
        self.frequencies, self.axes = rope_settings(backbone)
        config = backbone.text_config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = self.decoder.layers[0].self_attn.head_dim
        self.memory = PlainMemory(len(self.decoder.layers), self.kv_heads, self.width, backbone.axes)

    @staticmethod
    def feed_forward(block: Any, x: Tensor) -> Tensor:
        """What a block does behind its attention; experts have no float64."""
        if hasattr(block.mlp, "experts"):
            out = block.mlp.float()(x.float()[None])
            return (out[0] if isinstance(out, tuple) else out)[0].double()
        made: Tensor = block.mlp(x)
        return made

    def project(self, index: int, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[Hq, n, D]``, keys and values ``[Hkv, n, D]`` of a layer's input, not rotated."""
        attention = self.decoder.layers[index].self_attn
        x = self.decoder.layers[index].input_layernorm(hidden.double())
        query = attention.q_proj(x).view(-1, self.heads, self.width)
        key = attention.k_proj(x).view(-1, self.kv_heads, self.width)
        value = attention.v_proj(x).view(-1, self.kv_heads, self.width)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query.transpose(0, 1).double(), key.transpose(0, 1).double(), value.transpose(0, 1).double()

    def attention(
        self, index: int, query: Tensor, key: Tensor, positions: Tensor, causal: bool = True
    ) -> Tensor:
        """Attention ``[Hq, n, T + n]`` of un-rotated queries to what each head holds, and to themselves."""
        rows = []
        for head in range(self.heads):
            kv = head * self.kv_heads // self.heads
            held = self.memory.layers[index][kv]
            where = positions + held.clock
            past = rope(held.keys, held.positions, self.frequencies, self.axes)
            own = rope(key[kv], where, self.frequencies, self.axes)
            turned = rope(query[head], where, self.frequencies, self.axes)
            logits = turned @ torch.cat((past, own)).T / self.width**0.5
            for i in range(len(turned) if causal else 0):
                logits[i, len(past) + i + 1 :] = float("-inf")
            rows.append(logits.softmax(-1))
        return torch.stack(rows)

    @torch.no_grad()
    def run(
        self,
        embeds: Tensor,
        positions: Tensor,
        ids: Sequence[int] | None = None,
        deepstack: Sequence[Tensor] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens ``[n, hidden]`` at ``positions [A, n]``, relative to each head's own clock.

        They are written to the memory where ``ids`` are given. Returns the final hidden states and each
        layer's attention.
        """
        hidden, seen = embeds.double(), []
        for index, block in enumerate(self.decoder.layers):
            query, key, value = self.project(index, hidden)
            weights = self.attention(index, query, key, positions)
            out = []
            for head in range(self.heads):
                kv = head * self.kv_heads // self.heads
                out.append(weights[head] @ torch.cat((self.memory.layers[index][kv].values, value[kv])))
            seen.append(weights)
            for kv, held in enumerate(self.memory.layers[index] if ids is not None else ()):
                held.write(key[kv], value[kv], positions + held.clock, ids or (), [1] * len(key[kv]))
            hidden = hidden + block.self_attn.o_proj(torch.cat(out, dim=-1))
            hidden = hidden + self.feed_forward(block, block.post_attention_layernorm(hidden))
            if index < len(deepstack):
                hidden = hidden + deepstack[index].double()
        return self.decoder.norm(hidden), seen


# -- streams of embeddings ---------------------------------------------------------------------------------


def noise_chunk(
    backbone: Backbone, length: int, seed: int, *, first_id: int = 0, batch: int = 1, text: bool = False
) -> Chunk:
    """A chunk of random embeddings; with three axes on a grid of 2 rows and 3 columns, frames 1.5 apart."""
    generator = torch.Generator().manual_seed(seed)
    width = backbone.text_config.hidden_size
    scale = float(backbone.model.get_input_embeddings().weight.std())
    embeds = torch.randn(batch, length, width, generator=generator) * scale
    at = torch.arange(length)
    positions = at.expand(backbone.axes, -1).float()
    if backbone.axes == 3 and not text:
        positions = torch.stack((at // 6 * 1.5, at // 3 % 2, at % 3)).float()
    deepstack: tuple[Tensor, ...] = ()
    if hasattr(backbone.model.config.vision_config, "deepstack_visual_indexes") and not text:
        deepstack = tuple(torch.randn(batch, length, width, generator=generator) for _ in range(2))
    kind = TokenKind.PREFIX if text else TokenKind.VISUAL
    tokens = Provenance.of(length, id=first_id + at, frame=at // 6, kind=int(kind), time_us=at // 6 * 1000)
    return Chunk(embeds, positions, int(positions.max()) + 1, tokens, 1, deepstack)


def prefill(
    backbone: Backbone, memory: KVMemory, chunk: Chunk, *, prefix: bool = False, probe: Any = None
) -> Tensor:
    """Run a chunk through the model on top of the memory and commit it; final states ``[B, n, hidden]``."""
    with torch.no_grad(), memory_attention_set(backbone.model), reading(memory, probe):
        out = backbone.run(chunk.embeds, memory.next_position + chunk.positions, memory, chunk)
    memory.commit(chunk.positions, chunk.tokens, chunk.advance, prefix=prefix)
    hidden: Tensor = out.last_hidden_state
    return hidden


def new_memory(backbone: Backbone, **options: Any) -> KVMemory:
    return KVMemory(backbone.layer_specs, backbone.rotary, window_rotary=backbone.window_rotary, **options)


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


def slow_quantise(x: torch.Tensor, bits: int, along: str, group: int | None) -> torch.Tensor:
    """The nearest of a group's levels for every entry of ``x [T, D]``, one at a time."""
    out, levels = x.clone(), 2**bits - 1
    rows = x if along == "tokens" else x.T
    size = group or rows.shape[0]
    for channel in range(rows.shape[1]):
        for start in range(0, rows.shape[0], size):
            members = range(start, min(start + size, rows.shape[0]))
            low = min(float(rows[i, channel]) for i in members)
            high = max(float(rows[i, channel]) for i in members)
            for i in members:
                level = round((float(rows[i, channel]) - low) / (high - low) * levels) if high > low else 0
                value = low + level * (high - low) / levels
                out[(i, channel) if along == "tokens" else (channel, i)] = value
    return out
