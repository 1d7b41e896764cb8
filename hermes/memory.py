"""The memory: a transformers cache whose layers may hold different tokens at their own positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from hermes.errors import HermesError
from hermes.kernels import Kernels
from hermes.kernels.compact import MixPlan
from hermes.layer import KVLayer, LayerUpdate, MemoryConfig, Mix
from hermes.positions import Rotary, compacted
from hermes.provenance import Kind, Provenance
from hermes.storage import save_memory

__all__ = ["KVLayer", "KVMemory", "LayerUpdate", "MemoryConfig", "Mix"]


class KVMemory(Cache):  # type: ignore[misc]
    """A KV cache of fixed budget with ragged layers, positions per layer and provenance per token.

    Source: this project; positions as in arXiv 2601.14724, Sec. 3.3. RoPE sees only differences, so every
    layer keeps its own clock and its keys rotated at its own positions. The model runs all layers at one
    shared position, the largest clock; a layer that is behind turns its queries and new keys by the
    constant difference. Kept keys are therefore never touched until positions are re-indexed, and a fork is
    a shallow copy, because tensors are replaced and never changed in place.

    Args:
        num_layers: decoder layers.
        rotary: the decoder's rotary embedding.
        keep_written: hold a second copy of the keys as first written, so that repeated re-indexing in
            half precision does not add up rounding errors.
        clock: ``per_layer``; or ``first_layer``, which rotates every layer at the first layer's clock while
            recording positions per layer, as the release does for Qwen2.5-VL.
        kernels: chooses between the reference and the Triton kernel of each operation.

    >>> memory = KVMemory(2, Rotary(torch.tensor([1.0]), torch.tensor([0]), axes=1))
    >>> memory.next_position, memory.lengths
    (0, [0, 0])
    """

    layers: list[KVLayer]

    def __init__(
        self,
        num_layers: int,
        rotary: Rotary,
        *,
        keep_written: bool = False,
        clock: str = "per_layer",
        kernels: Kernels | None = None,
    ) -> None:
        kernels = kernels or Kernels()
        super().__init__(layers=[KVLayer(i, rotary, kernels) for i in range(num_layers)])
        self.use(kernels)
        self.rotary = rotary
        self.keep_written = keep_written
        self.clock_mode = clock
        self.prefix = 0
        self.next_position = 0
        # The largest clock of any layer: no position is beyond it.
        self.top = 0
        self.next_summary_id = -2

    @staticmethod
    def of(num_layers: int, rotary: Rotary, config: MemoryConfig) -> KVMemory:
        """An empty memory as ``config`` has it."""
        return KVMemory(
            num_layers,
            rotary,
            keep_written=config.keep_written,
            clock=config.clock,
            kernels=Kernels(config.kernels),
        )

    def use(self, kernels: Kernels) -> None:
        """Run on these kernels from now on."""
        self.kernels = kernels
        for layer in self.layers:
            layer.kernels = kernels

    def __iter__(self) -> Iterator[KVLayer]:
        return iter(self.layers)

    def __getitem__(self, index: int) -> KVLayer:
        return self.layers[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens held per layer, prefix included."""
        return [layer.length for layer in self.layers]

    @property
    def batch_size(self) -> int:
        """Streams held side by side, 0 where empty."""
        return 0 if self.layers[0].keys is None else int(self.layers[0].keys.shape[0])

    @property
    def memory_bytes(self) -> int:
        """Bytes of keys, values, positions and provenance of all layers."""
        return sum(t.nbytes for layer in self.layers for t in layer.tensors().values())

    def largest_position(self) -> float:
        """The largest position held in any layer, on any axis; -1 where empty."""
        tops = [
            layer.positions.amax() for layer in self.layers if layer.length and layer.positions is not None
        ]
        return float(torch.stack(tops).amax()) if tops else -1.0

    def commit(
        self, positions: Float[Tensor, "A n"], tokens: Provenance, advance: int, *, prefix: bool = False
    ) -> None:
        """Take the pending tokens into the memory.

        Args:
            positions: relative to the clock at which they were encoded, the same for every layer.
            tokens: their provenance, table ``[8, n]``, on the CPU.
            advance: how far the clock moves.
            prefix: these tokens are the fixed prefix, never evicted.
        """
        with self._whole():
            # Asked of the chunk's own table, which lies on the host: no wait for the device.
            stamped = bool((tokens.kind == int(Kind.TIMESTAMP)).any())
            protected = bool(tokens.protected.any()) and not prefix
            table = tokens.table if tokens.table.ndim == 3 else tokens.table[:, None]
            table = table.unsqueeze(2).to(self.layers[0].keys.device)
            for layer in self.layers:
                layer.has_timestamps |= stamped
                layer.has_protected |= protected
                self._commit_layer(layer, positions, table, advance, prefix)
            self.next_position += advance
            self.top += advance
            self.prefix = self.layers[0].prefix

    def _commit_layer(
        self, layer: KVLayer, positions: Tensor, table: Tensor, advance: int, prefix: bool
    ) -> None:
        batch = layer.keys.shape[0]
        if layer.positions is None:
            layer.clock = torch.zeros(batch, 1, device=layer.keys.device)
        rows, relative = layer.rows, positions.to(layer.keys.device, torch.float32)
        new = layer.clock[None, :, :, None] + relative[:, None, None, :]
        table = table.to(layer.keys.device).expand(-1, batch, rows, -1)
        if self.keep_written:
            fresh = layer.keys[:, :, layer.length :]
            layer.written = (
                (fresh, new)
                if layer.written is None
                else (torch.cat((layer.written[0], fresh), 2), torch.cat((layer.written[1], new), -1))
            )
        if layer.positions is None or layer.tokens is None:
            layer.positions, layer.tokens = new, Provenance(table)
        else:
            layer.positions = torch.cat((layer.positions, new), dim=-1)
            layer.tokens = Provenance(torch.cat((layer.tokens.table, table), dim=-1))
        layer.clock = layer.clock + advance
        layer.start = self.next_position + advance
        if prefix:
            layer.prefix += table.shape[-1]

    def rollback(self) -> None:
        """Drop the pending tokens, as if the forward pass that wrote them had not happened."""
        for layer in self.layers:
            if layer.pending:
                layer.keys = layer.keys[:, :, : layer.length] if layer.length else None
                layer.values = layer.values[:, :, : layer.length] if layer.length else None
                layer.is_initialized = layer.keys is not None

    def apply(
        self, updates: Mapping[int, LayerUpdate], *, compact: bool | Bool[Tensor, " B"] = False
    ) -> None:
        """Evict, mix and re-index.

        Args:
            updates: per layer index; layers not named keep every token.
            compact: re-index the positions of all layers (arXiv 2601.14724, Sec. 3.3), or those of the
                streams that are true.

        Raises:
            HermesError: an update for a layer that there is not, or slots that are not ascending, not held,
                or lack the prefix. After any error the memory is as it was.
        """
        if not updates and compact is False:
            return
        if unknown := [index for index in updates if not 0 <= index < len(self.layers)]:
            raise HermesError(f"an update for layer {unknown[0]} of a memory of {len(self.layers)} layers")
        sizes = [update.mix.size for update in updates.values() if update.mix is not None]
        with self._whole():
            flaws = []
            for index, layer in enumerate(self.layers):
                update = updates.get(index)
                if update is not None:
                    flaws.append(_flaw(update.keep, layer))
                if update is not None or compact is not False:
                    self._apply_layer(layer, update, compact)
            self.next_summary_id -= max(sizes, default=0)
            wrong = self.align(flaws)
            if any(wrong):
                index = sorted(updates)[wrong.index(True)]
                raise HermesError(
                    f"the update of layer {index} keeps slots that are not ascending, not held, or lack the "
                    f"prefix (slots 0 to {self.prefix - 1})"
                )

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All of a change or none of it, also when interrupted: layers must agree with each other."""
        layers, rest = [layer.fork() for layer in self.layers], dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.update(rest)
            self.layers = layers
            raise

    def _apply_layer(
        self, layer: KVLayer, update: LayerUpdate | None, compact: bool | Bool[Tensor, " B"]
    ) -> None:
        keep = None if update is None else update.keep
        if keep is not None and max(keep.shape[1], layer.rows) > 1:
            layer.widen(int(layer.keys.shape[1]))
            keep = keep.expand(-1, layer.rows, -1)
        positions, table = layer.positions, layer.held.table
        if positions is None:
            raise HermesError(f"layer {layer.index} of the memory is empty")
        if keep is not None:
            if update is not None and update.mix is not None:
                keep = keep.expand(layer.keys.shape[0], -1, -1)
            kept, table = _take(positions, keep), _take(table, keep)
        else:
            kept = positions
        new = kept if compact is False else compacted(kept, layer.prefix)
        if isinstance(compact, Tensor):
            new = torch.where(compact.to(kept.device)[:, None, None], new, kept)
        origin = layer.written[1] if layer.written is not None else positions
        origin_kept = origin if keep is None else _take(origin, keep)
        turn = (
            self.rotary.turning(new - (origin_kept if layer.written is not None else kept))
            if compact is not False
            else None
        )

        plan = None
        mix = None if update is None else update.mix
        if mix is not None and keep is not None:
            plan, place, summary = self._plan(layer, mix, keep, new, table)
            if mix.targets is None:
                new, table = torch.cat((new, place), dim=-1), torch.cat((table, summary), dim=-1)
            else:
                table = summary
        source = None if layer.written is None else layer.written[0]
        layer.keys, layer.values = self.kernels.compact_layer(
            layer.keys, layer.values, keep, turn, plan, source=source
        )
        if layer.written is not None:
            keys, at = layer.written[0], origin_kept
            if keep is not None:
                keys, _ = self.kernels.compact_layer(layer.written[0], layer.written[0], keep, None, None)
            if plan is not None:
                # A mixed token is first written where it is mixed.
                if plan.targets is None:
                    keys = torch.cat((keys, layer.keys[:, :, -plan.size :]), dim=2)
                    at = torch.cat((at, new[..., -plan.size :]), dim=-1)
                else:
                    slots = (
                        plan.targets.expand(*keys.shape[:2], -1)
                        .unsqueeze(-1)
                        .expand(-1, -1, -1, keys.shape[-1])
                    )
                    keys = keys.scatter(2, slots, layer.keys.gather(2, slots))
                    chosen = plan.targets.expand(*at.shape[1:3], -1).expand(at.shape[0], -1, -1, -1)
                    at = at.scatter(3, chosen, new.gather(3, chosen))
            layer.written = (keys, at)
        layer.positions, layer.tokens = new, Provenance(table)
        layer.clock = (
            torch.floor(new.amax(dim=(0, -1))) + 1 if new.shape[-1] else torch.zeros_like(layer.clock)
        )

    def _plan(
        self, layer: KVLayer, mix: Mix, keep: Tensor, new: Tensor, table: Tensor
    ) -> tuple[MixPlan, Tensor, Tensor]:
        """Rotation of the members, positions ``[A, B, R, S]`` and provenance of the mixed tokens."""
        batch, rows = keep.shape[:2]
        members, weights = mix.members.expand(batch, rows, -1), mix.weights.expand(batch, rows, -1)
        groups = None if mix.groups is None else mix.groups.expand(batch, rows, -1)
        targets = None
        if mix.targets is None:
            last = new.amax(dim=(0, -1)) if new.shape[-1] else new.new_full((batch, rows), -1.0)
            place = last[..., None] + torch.arange(1, mix.size + 1, device=new.device)
            place = place.expand(new.shape[0], -1, -1, -1)
        else:
            targets = torch.searchsorted(keep.contiguous(), mix.targets.expand(batch, rows, -1).contiguous())
            place = _take(new, targets)
        goal = place if groups is None else _take(place, groups)
        old = _take(layer.positions, members)  # type: ignore[arg-type]
        plan = MixPlan(members, weights, groups, mix.size, self.rotary.turning(goal - old), targets)

        origin = _take(layer.held.table, members)
        index = torch.zeros_like(members) if groups is None else groups
        blank = origin.new_zeros(batch, rows, mix.size)
        mass = blank.scatter_add(2, index, origin[7])
        ids = self.next_summary_id - torch.arange(mix.size, device=blank.device).expand_as(blank)
        if targets is None:
            time = blank.double().scatter_add(2, index, origin[2] * weights.double()).round().long()
            frame = (blank - 1).scatter_reduce(2, index, origin[1], "amax")
            one = torch.ones_like(blank)
            columns = (ids, frame, time, -one, -one, one * int(Kind.SUMMARY), blank, mass)
            return plan, place, torch.stack(columns)
        table = table.clone()
        table[0].scatter_(2, targets, ids)
        table[5].scatter_(2, targets, int(Kind.SUMMARY))
        table[7].scatter_(2, targets, mass)
        return plan, place, table

    def align(self, flaws: Sequence[Tensor] = ()) -> list[bool]:
        """Set the shared next position to the largest clock and each layer's turn to the difference.

        Args:
            flaws: flags to bring to the host with the clocks.

        Returns:
            the flags.
        """
        device = self.layers[0].clock.device
        parts = [layer.clock.flatten().to(device) for layer in self.layers]
        parts += [flaw.to(device, torch.float32).flatten() for flaw in flaws]
        # The one copy to the host in a streaming step.
        clocks = torch.cat(parts).tolist()
        clocks, flags = clocks[: len(clocks) - len(flaws)], clocks[len(clocks) - len(flaws) :]
        first = int(max(clocks[: self.layers[0].clock.numel()]))
        self.top = int(max(clocks))
        self.next_position = self.top if self.clock_mode == "per_layer" else first
        at = 0
        for layer in self.layers:
            count = layer.clock.numel()
            behind = any(clock != self.next_position for clock in clocks[at : at + count])
            at += count
            layer.start = self.next_position
            layer.turn = None
            if behind and self.clock_mode == "per_layer":
                shift = (self.next_position - layer.clock)[None, :, :, None]
                layer.turn = self.rotary.angles(shift.expand(self.rotary.axes, -1, -1, -1))
        return [bool(flag) for flag in flags]

    def fork(self) -> KVMemory:
        """A copy that shares every tensor; writing to it leaves this memory as it is, bit for bit."""
        other = KVMemory.__new__(KVMemory)
        other.__dict__.update(self.__dict__)
        other.layers = [layer.fork() for layer in self.layers]
        return other

    def select(self, streams: Sequence[int]) -> KVMemory:
        """A copy that holds some of the streams; a single one shares every tensor."""
        other = self.fork()
        for layer in other.layers:
            layer.select(streams)
        other.align()
        return other

    def reset(self) -> None:
        """Empty every layer and set the clock to zero."""
        for layer in self.layers:
            layer.reset()
        self.prefix = self.next_position = self.top = 0
        self.next_summary_id = -2

    def save(self, folder: str | Path) -> None:
        """Write the memory to a folder as safetensors and JSON (see :mod:`hermes.storage`).

        Raises:
            HermesError: tokens are pending.
        """
        save_memory(self, folder)

    def state(self) -> Sequence[Tensor]:
        """Every tensor held, in a fixed order, for comparing two memories."""
        return [tensor for layer in self.layers for tensor in layer.tensors().values()]


def _flaw(keep: Int[Tensor, "B R K"], layer: KVLayer) -> Tensor:
    """Whether slots break the rules of an update: ascending, held, and the prefix among them."""
    prefix, device = layer.prefix, keep.device
    if keep.shape[-1] < max(prefix, 1):
        return torch.ones((), device=device)
    fixed = (keep[..., :prefix] != torch.arange(prefix, device=device)).any()
    return fixed | (keep.diff(dim=-1) <= 0).any() | (keep[..., -1] >= layer.length).any()


def _take(x: Tensor, index: Int[Tensor, "B R K"]) -> Tensor:
    """Entries of ``x [C, B, R, T]`` at ``index [B, R, K]`` along the last axis."""
    if index.shape[:2] == (1, 1):
        return x.index_select(-1, index[0, 0])
    return x.gather(-1, index.expand(x.shape[0], -1, -1, -1))
