"""Attention of a pseudo-query over the memory, as policies ask for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.attention import (
    AttentionProbe,
    AttentionView,
    Guidance,
    Observer,
    SecondReading,
    StopForwardError,
    memory_attention_set,
    reading,
    rotate_query,
)
from hermes.backbone import Backbone
from hermes.decoding.parallel import over_all_heads, processes_of
from hermes.decoding.prefill import prefill
from hermes.decoding.second_reading import read_again
from hermes.errors import InputError, UnsupportedModelError
from hermes.memory import KVLayer, KVMemory
from hermes.tokens import Chunk, expand_axes

# What the tokens of a pseudo-query depend on: its text, and how control tokens in it are read.
_Name = tuple[str, bool]
# Runs one layer: its index, hidden states [B, q, hidden], a mask or None for a causal one.
Layer = Callable[[int, Tensor, "Tensor | None"], Tensor]


@dataclass
class _Segment:
    """One pseudo-query going through the decoder, with what is wanted of it at each layer.

    ``wanted[layer]`` lists (guidance, rows): a text that is a causal prefix of this one rides on its rows.
    """

    ids: Int[Tensor, "1 n"]
    wanted: dict[int, list[tuple[Guidance, int]]]

    @property
    def last(self) -> int:
        return max(self.wanted)


@dataclass
class _Text:
    """A pseudo-query: its tokens, on the device and on the host, and what layers make of its embeddings."""

    ids: Int[Tensor, "1 n"]
    host: list[int]
    # Unrotated queries and keys, [layers, heads, n, D]; they change only with the text.
    made: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def projections(self, backbone: Backbone, layers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if layers not in self.made:
            embeds = backbone.embed(self.ids)
            each = [backbone.project(index, embeds) for index in layers]
            query, own = (torch.cat(parts) for parts in zip(*each, strict=True))
            self.made[layers] = (query, own)
        return self.made[layers]


def _name(guidance: Guidance) -> _Name:
    return guidance.text, guidance.control


class DecoderObserver(Observer):
    """Answers a policy's requests for attention with the decoder itself.

    Source: arXiv 2601.14724, Sec. 3.1; the shortcut as the release computes it.

    Args:
        backbone: a loaded model family.
        memory: what is attended to.

    Attributes:
        chunk: the newest, while a policy decides what stays of the memory; else None.
    """

    chunk: Chunk | None = None

    # Pseudo-queries kept between chunks: three prompts, before and after the history changes.
    _KEPT = 6

    def __init__(self, backbone: Backbone, memory: KVMemory) -> None:
        self.backbone = backbone
        self.memory = memory
        self.texts: OrderedDict[_Name, _Text] = OrderedDict()

    @torch.no_grad()
    def attention(
        self, requests: Mapping[int, Sequence[Guidance]]
    ) -> dict[tuple[int, Guidance], Float[Tensor, "B R V"]]:
        """Attention to each video token, as :meth:`hermes.Observer.attention` has it.

        Raises:
            InputError: the memory holds nothing yet.
        """
        if not self.memory.batch_size:
            raise InputError("the memory holds nothing yet that could be attended to: feed frames first")
        out: dict[tuple[int, Guidance], Tensor] = {}
        exact: dict[int, list[Guidance]] = {}
        embedded: dict[Guidance, list[int]] = {}
        for layer, guidances in requests.items():
            for guidance in dict.fromkeys(guidances):
                if guidance.mode == "exact":
                    exact.setdefault(layer, []).append(guidance)
                else:
                    embedded.setdefault(guidance, []).append(layer)
        for guidance, layers in embedded.items():
            self._embedding(guidance, layers, out)
        if exact:
            with memory_attention_set(self.backbone.model):
                self._exact(exact, out)
        if (group := processes_of(self.backbone.model)) is not None:
            for (index, guidance), mass in out.items():
                if not guidance.per_head:
                    out[index, guidance] = over_all_heads(mass, group, guidance.pool)
        return out

    def _text(self, guidance: Guidance) -> _Text:
        name = _name(guidance)
        known = self.texts.get(name)
        if known is None:
            read = self.backbone.encode if guidance.control else self.backbone.encode_plain
            ids = read(guidance.text)
            known = self.texts[name] = _Text(ids, ids[0].tolist())
        self.texts.move_to_end(name)
        if len(self.texts) > self._KEPT:
            self.texts.popitem(last=False)
        return known

    def over(self, memory: KVMemory) -> DecoderObserver:
        """The same, over another memory of the same model."""
        return DecoderObserver(self.backbone, memory)

    @torch.no_grad()
    def queries(self, text: str) -> list[Float[Tensor, "B Hq n D"]]:
        """Every layer's queries of a text before rotation, from a true forward of it over the memory.

        Source: arXiv 2503.00540 (ReKV): what archived blocks are retrieved by, here in a pass of its
        own (there in the answer's).

        Raises:
            UnsupportedModelError: the model's heads are split over processes, each of which would retrieve
                other blocks.
        """
        if processes_of(self.backbone.model) is not None:
            raise UnsupportedModelError(
                "under tensor parallelism each process has queries of some heads only, and would retrieve "
                "blocks of its own: use a policy without an archive, or device_map in place of tp_plan"
            )
        ids = self.backbone.encode_plain(text)
        n, batch, axes = ids.shape[1], max(self.memory.batch_size, 1), self.backbone.axes
        positions = self.memory.next_position + torch.arange(n, dtype=torch.float32, device=ids.device)
        seen = _Queries(self.memory, len(self.memory.managed))
        fork = self.memory.fork()
        with memory_attention_set(self.backbone.model), reading(fork, seen):
            embeds = self.backbone.embed(ids).expand(batch, -1, -1)
            self.backbone.run(embeds, expand_axes(positions, axes), fork)
        return seen.found

    def read(self, chunk: Chunk, into: KVMemory) -> None:
        """Read a chunk into another memory of the same model, or of its first layers alone."""
        prefill(self.backbone, into, chunk)

    @torch.no_grad()
    def read_again(self, how: SecondReading, probe: AttentionProbe) -> None:
        """As :meth:`hermes.Observer.read_again` has it; left after the last layer that the probe asks for."""
        if self.chunk is not None and len(self.chunk):
            read_again(self.backbone, self.memory, self.chunk, how, probe)

    # -- the release's shortcut ----------------------------------------------------------------------------

    def _embedding(
        self, guidance: Guidance, layers: Sequence[int], out: dict[tuple[int, Guidance], Tensor]
    ) -> None:
        held = [self.memory.managed[index] for index in layers]
        if len({(layer.clock.shape, layer.keys.device, id(layer.rotary)) for layer in held}) > 1:
            for index in layers:
                self._embedding(guidance, [index], out)
            return
        batch = held[0].clock.shape[0]
        both = self._text(guidance).projections(self.backbone, tuple(layers))
        # Layers are taken as more streams, so that all their queries and keys turn in one operation.
        query, own = (x.repeat_interleave(batch, dim=0) if batch > 1 else x for x in both)
        steps = torch.arange(query.shape[2], device=query.device)
        positions = torch.cat([layer.clock for layer in held]).to(query.device)[..., None] + steps
        rotary, kernels = held[0].rotary, held[0].kernels
        cos, sin = rotary.stretched(*rotary.angles(expand_axes(positions, rotary.axes)))
        query = rotate_query(query, cos, sin, own.shape[1], kernels)
        own = rotate_query(own, cos, sin, own.shape[1], kernels)
        parts = zip(layers, held, query.split(batch), own.split(batch), strict=True)
        for index, layer, asked, text in parts:
            keys = layer.keys[:, :, : layer.length]
            scaling = self.backbone.scaling(index)
            out[index, guidance] = _mass(asked, keys, text, layer, guidance, causal=False, scaling=scaling)

    def _exact(self, wanted: dict[int, list[Guidance]], out: dict[tuple[int, Guidance], Tensor]) -> None:
        """All pseudo-queries through the decoder at once, each over the memory and itself only.

        A segment is dropped after the last layer that wants it, and nothing is computed past the last
        attention that is wanted.
        """
        segments = sorted(self._segments(wanted), key=lambda segment: -segment.last)
        if self.memory.states or self.backbone.rotary.each:
            # A recurrence, or a window that counts its own tokens, takes one text at a time; and where layers
            # rotate each in its own way, the decoder alone knows how.
            for segment in segments:
                self._alone(segment, out)
            return
        sizes = [segment.ids.shape[1] for segment in segments]
        hidden = self.backbone.embed(torch.cat([segment.ids for segment in segments], dim=1))
        hidden = hidden.expand(self.memory.batch_size, -1, -1)
        steps = torch.cat([torch.arange(size, device=hidden.device) for size in sizes])
        watch = _Watch(segments, out)
        masks: dict[tuple[int, int], Tensor] = {}
        with self._layers(hidden, steps, watch) as layer:
            for index in range(len(self.memory.managed)):
                active = [segment for segment in segments if segment.last >= index]
                rows = sum(sizes[: len(active)])
                hidden = hidden[:, :rows]
                mask = None
                if len(active) > 1:
                    key = (rows, self.memory.managed[index].length)
                    if key not in masks:
                        masks[key] = _block_bias(sizes[: len(active)], key[1], hidden)
                    mask = masks[key]
                try:
                    hidden = layer(index, hidden, mask)
                except StopForwardError:
                    return

    def _alone(self, segment: _Segment, out: dict[tuple[int, Guidance], Tensor]) -> None:
        """One pseudo-query in a true forward over a fork, left after the last layer that wants it."""
        watch = _Watch([segment], out)
        with suppress(StopForwardError), reading(self.memory.fork(), watch) as scope:
            embeds = self.backbone.embed(segment.ids).expand(self.memory.batch_size, -1, -1)
            steps = torch.arange(embeds.shape[1], dtype=torch.float32, device=embeds.device)
            positions = expand_axes(self.memory.next_position + steps, self.backbone.axes)
            self.backbone.run(embeds, positions, scope.memory)

    @contextmanager
    def _layers(self, hidden: Tensor, steps: Tensor, watch: AttentionProbe) -> Iterator[Layer]:
        """The decoder's own layers over a fork of the memory, at the shared clock."""
        fork, decoder, axes = self.memory.fork(), self.backbone.decoder, self.backbone.axes
        rotary: Any = decoder.rotary_emb
        blocks: Any = decoder.layers
        positions = (self.memory.next_position + steps).float().unsqueeze(0)
        cos, sin = rotary(hidden, expand_axes(positions, axes) if axes > 1 else positions)
        # Older blocks (GPT-NeoX) name their cache otherwise, and take the usual name for nothing.
        older = "layer_past" in signature(blocks[0].forward).parameters
        cache = {"layer_past" if older else "past_key_values": fork}

        def layer(index: int, hidden: Tensor, mask: Tensor | None) -> Tensor:
            rows = hidden.shape[1]
            block: Any = blocks[index]
            output = block(
                hidden,
                attention_mask=mask,
                use_cache=True,
                position_embeddings=(cos[:, :rows], sin[:, :rows]),
                **cache,
            )
            out: Tensor = output[0] if isinstance(output, tuple) else output
            return out

        with reading(fork, watch):
            yield layer

    def _segments(self, wanted: dict[int, list[Guidance]]) -> list[_Segment]:
        asked = [guidance for guidances in wanted.values() for guidance in guidances]
        texts = {_name(guidance): self._text(guidance) for guidance in asked}
        host: dict[_Name, _Segment] = {}
        for name in sorted(texts, key=lambda name: -len(texts[name].host)):
            own = texts[name]
            for longer, other in host.items():
                if texts[longer].host[: len(own.host)] == own.host:
                    # Causality: the longer text's first n states are this text's states.
                    host[name] = other
                    break
            else:
                host[name] = _Segment(own.ids, {})
        for layer, guidances in wanted.items():
            for guidance in guidances:
                rows = len(texts[_name(guidance)].host)
                host[_name(guidance)].wanted.setdefault(layer, []).append((guidance, rows))
        return list({id(segment): segment for segment in host.values()}.values())


class _Watch(AttentionProbe):
    def __init__(self, segments: Sequence[_Segment], out: dict[tuple[int, Guidance], Tensor]) -> None:
        self.segments = segments
        self.out = out
        self.last = max(segment.last for segment in segments)

    def observe(self, view: AttentionView) -> None:
        start = 0
        for segment in self.segments:
            for guidance, rows in segment.wanted.get(view.index, ()):
                span = slice(start, start + rows)
                query, own = view.query[:, :, span], view.own[:, :, span]
                mass = _mass(query, view.memory, own, view.layer, guidance, causal=True, scaling=view.scaling)
                self.out[view.index, guidance] = mass
            start += segment.ids.shape[1]
        if view.index == self.last:
            raise StopForwardError


class _Queries(AttentionProbe):
    """Takes the rotation off every layer's queries."""

    def __init__(self, memory: KVMemory, count: int) -> None:
        self.memory = memory
        self.found: list[Tensor] = [torch.empty(0)] * count

    def observe(self, view: AttentionView) -> None:
        held = view.layer
        shared = torch.full_like(held.clock, float(self.memory.next_position))
        # A layer without a turn of its own rotates at the shared clock.
        start = (shared if held.to_shared_clock is None else held.clock).to(view.query.device)
        steps = torch.arange(view.query.shape[2], device=start.device)
        cos, sin = held.rotary.angles(expand_axes(start[..., None] + steps, held.rotary.axes))
        kv_heads = view.own.shape[1]
        plain = rotate_query(view.query.float(), cos, -sin, kv_heads, held.kernels)
        self.found[view.index] = held.rotary.unstretched(plain)


def _mass(
    query: Tensor,
    memory: Tensor,
    own: Tensor,
    layer: KVLayer,
    guidance: Guidance,
    *,
    causal: bool,
    scaling: float,
) -> Tensor:
    per_head, prefix = guidance.per_head or layer.rows > 1, layer.prefix
    tail: Tensor | None = own
    if guidance.among == "video":
        memory, tail, prefix = memory[:, :, prefix:], None, 0
    mass = layer.kernels.attention_mass(
        query,
        memory,
        tail,
        scaling=scaling,
        causal=causal,
        per_head=per_head,
        dtype=torch.float16 if guidance.half else torch.float32,
        pool=guidance.pool,
    )
    return mass[..., prefix:]


def _block_bias(sizes: Sequence[int], held: int, like: Tensor) -> Tensor:
    """Additive mask ``[1, 1, Q, T + Q]``: every query sees the memory, and its own segment causally."""
    total = sum(sizes)
    seen = torch.zeros(total, held + total, dtype=torch.bool, device=like.device)
    seen[:, :held] = True
    start = 0
    for size in sizes:
        stop = start + size
        seen[start:stop, held + start : held + stop] = torch.ones(
            size, size, dtype=torch.bool, device=like.device
        ).tril()
        start = stop
    bias = torch.zeros(total, held + total, dtype=like.dtype, device=like.device)
    return bias.masked_fill_(~seen, float("-inf"))[None, None]
