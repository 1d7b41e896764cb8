"""The memory: a transformers cache whose layers may hold different tokens at their own positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hermes.errors import HermesError
from hermes.kernels import Kernels
from hermes.memory.config import MemoryConfig
from hermes.memory.kinds import LayerSpec, describe_layers
from hermes.memory.layer import KVLayer
from hermes.memory.layered import LayeredCache
from hermes.memory.storage import write_saved
from hermes.memory.transitions import append_pending, evict, group_alike, invalid_updates
from hermes.memory.updates import LayerUpdate
from hermes.tokens import Provenance, Rotary, TokenKind

__all__ = ["KVMemory"]


class KVMemory(LayeredCache):
    """A KV cache of fixed budget with ragged layers, positions per layer and provenance per token.

    Positions as in arXiv 2601.14724, Sec. 3.3. RoPE sees only differences, so every
    layer keeps its own clock and its keys rotated at its own positions. The model runs all layers at one
    shared position, the largest clock; a layer that is behind turns its queries and new keys by the
    constant difference. Kept keys are therefore never touched until positions are re-indexed, and a fork is
    a shallow copy, because tensors are replaced and never changed in place.

    Decoder layers of other kinds (:class:`LayerSpec`) lie among :attr:`layers` in their true order: windows,
    recurrent states, borrowed keys. They hold what the stream made of them, and no policy changes it.
    Everything that counts layers, :attr:`lengths`, indices and updates, counts :attr:`managed` ones.

    Args:
        layers: what each decoder layer remembers; or how many there are, all of full attention.
        rotary: the decoder's rotary embedding.
        keep_written: hold a second copy of the keys as first written, so that repeated re-indexing in
            half precision does not add up rounding errors.
        clock: ``per_layer``; or ``first_layer``, which rotates every layer at the first layer's clock while
            recording positions per layer, as the release does for Qwen2.5-VL.
        kernels: chooses between the reference and the Triton kernel of each operation.
        window_rotary: the rotary embedding of window layers; the decoder's by default.

    >>> memory = KVMemory(2, Rotary(torch.tensor([1.0]), torch.tensor([0]), axes=1))
    >>> memory.next_position, memory.lengths
    (0, [0, 0])
    """

    def __init__(
        self,
        layers: int | Sequence[LayerSpec],
        rotary: Rotary,
        *,
        keep_written: bool = False,
        clock: str = "per_layer",
        kernels: Kernels | None = None,
        window_rotary: Rotary | None = None,
    ) -> None:
        specs = [LayerSpec("managed")] * layers if isinstance(layers, int) else layers
        kernels = kernels or Kernels()
        super().__init__(specs, rotary, window_rotary or rotary, kernels)
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
    def of(
        layers: int | Sequence[LayerSpec],
        rotary: Rotary,
        config: MemoryConfig,
        *,
        window_rotary: Rotary | None = None,
    ) -> KVMemory:
        """An empty memory as ``config`` has it."""
        return KVMemory(
            layers,
            rotary,
            keep_written=config.keep_written,
            clock=config.clock,
            kernels=Kernels(config.kernels),
            window_rotary=window_rotary,
        )

    def use(self, kernels: Kernels) -> None:
        """Run on these kernels from now on."""
        self.kernels = kernels
        for layer in self.managed:
            layer.kernels = kernels

    def __repr__(self) -> str:
        lengths, kinds = self.lengths, f" ({describe_layers(self.specs)})" if self.states else ""
        held = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
        streams = f" for {self.batch_size} streams" if self.batch_size > 1 else ""
        return (
            f"<{type(self).__name__}: {len(self.layers)} layers{kinds}{streams}, {held} tokens each, "
            f"{self.prefix} of them the prefix, {self.memory_bytes / 1e6:.3g} MB>"
        )

    @property
    def lengths(self) -> list[int]:
        """Tokens held per layer, prefix included."""
        return [layer.length for layer in self.managed]

    @property
    def batch_size(self) -> int:
        """Streams held side by side, 0 where empty."""
        return 0 if self.managed[0].keys is None else int(self.managed[0].keys.shape[0])

    def largest_position(self) -> float:
        """The largest position held in any layer, on any axis; -1 where empty."""
        tops = [
            layer.positions.amax() for layer in self.managed if layer.length and layer.positions is not None
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
            stamped = bool((tokens.kind == int(TokenKind.TIMESTAMP)).any())
            protected = bool(tokens.protected.any()) and not prefix
            table = tokens.table if tokens.table.ndim == 3 else tokens.table[:, None]
            table = table.unsqueeze(2)
            for layer in self.managed:
                layer.has_timestamps |= stamped
                layer.has_protected |= protected
            for group in group_alike(self.managed, {}):
                append_pending(group, positions, table, advance, keep_written=self.keep_written)
            for layer in self.managed:
                layer.start = self.next_position + advance
                if prefix:
                    layer.prefix += table.shape[-1]
            for state in self.states:
                state.commit()
            self.next_position += advance
            self.top += advance
            self.prefix = self.managed[0].prefix

    def load_pending(self, state: Sequence[Tensor]) -> None:
        """Let layers hold these keys and values, two tensors a layer; tokens past its length are pending."""
        for index, layer in enumerate(self.managed):
            layer.keys, layer.values = state[2 * index : 2 * index + 2]

    def rollback(self) -> None:
        """Drop the pending tokens, as if the forward pass that wrote them had not happened."""
        for state in self.states:
            state.rollback()
        for layer in self.managed:
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
        if unknown := [index for index in updates if not 0 <= index < len(self.managed)]:
            raise HermesError(f"an update for layer {unknown[0]} of a memory of {len(self.managed)} layers")
        with self._whole():
            self._finish_eviction(*self.evict(updates, self.next_summary_id, compact=compact))

    def keeping(self, video_index: Int[Tensor, "*rows K"]) -> dict[int, LayerUpdate]:
        """Every layer keeps the prefix and the video tokens at ``video_index`` (0: first after it)."""
        made: dict[object, LayerUpdate] = {}
        for layer in self.managed:
            if (layer.prefix, layer.keys.device) not in made:
                made[layer.prefix, layer.keys.device] = layer.keeping(video_index)
        return {layer.index: made[layer.prefix, layer.keys.device] for layer in self.managed}

    def evict(
        self,
        updates: Mapping[int, LayerUpdate],
        summary_id: int | Tensor,
        *,
        compact: bool | Bool[Tensor, " B"] = False,
    ) -> tuple[list[Bool[Tensor, " G"]], list[int], int]:
        """Change the layers: :meth:`apply` but for the shared clock and what else the host must know.

        Args:
            updates, compact: as of :meth:`apply`.
            summary_id: id of the first mixed token.

        Returns:
            flags of wrong updates, the layers they are of, and the number of ids used.

        Raises:
            HermesError: a layer is empty.
        """
        found, order = [], []
        chosen = [layer for layer in self.managed if layer.index in updates or compact is not False]
        if empty := [layer.index for layer in chosen if layer.positions is None]:
            raise HermesError(f"layer {empty[0]} of the memory is empty")
        for group in group_alike(chosen, updates):
            own = [updates[layer.index] for layer in group if layer.index in updates]
            if own:
                found.append(invalid_updates(group, own))
                order += [layer.index for layer in group]
            evict(group, own or [None] * len(group), compact, summary_id)
        sizes = [update.mix.size for update in updates.values() if update.mix is not None]
        return found, order, max(sizes, default=0)

    def apply_recorded(
        self, state: Sequence[Tensor], found: Sequence[Tensor], order: list[int], ids: int
    ) -> None:
        """Take over what a recorded :meth:`evict` made of :meth:`state`; raises as :meth:`apply`."""
        with self._whole():
            self.load_state(state)
            self._finish_eviction(found, order, ids)

    def load_state(self, state: Sequence[Tensor]) -> None:
        """Let the layers hold what :meth:`state` gave, of a memory that keeps no second copy of its keys."""
        each = len(state) // len(self.managed)
        for index, layer in enumerate(self.managed):
            layer.keys, layer.values, layer.positions, table, layer.clock = state[each * index :][:each]
            layer.tokens = Provenance(table)

    def _finish_eviction(self, found: Sequence[Tensor], order: Sequence[int], ids: int) -> None:
        self.next_summary_id -= ids
        wrong = self.sync_clocks(found)
        if any(wrong):
            index = min(index for index, flaw in zip(order, wrong, strict=True) if flaw)
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
            self._hold(layers)
            raise

    def sync_clocks(self, flaws: Sequence[Tensor] = ()) -> list[bool]:
        """Set the shared next position to the largest clock and each layer's turn to the difference.

        Args:
            flaws: flags to bring to the host with the clocks.

        Returns:
            the flags.
        """
        device = self.managed[0].clock.device
        parts = [layer.clock.flatten().to(device) for layer in self.managed]
        sizes = [len(part) for part in parts]
        parts += [flaw.to(device, torch.float32).flatten() for flaw in flaws]
        # The one copy to the host in a streaming step.
        host = torch.cat(parts).tolist()
        clocks, flags = host[: sum(sizes)], host[sum(sizes) :]
        self.top, before = int(max(clocks)), self.next_position
        self.next_position = self.top if self.clock_mode == "per_layer" else int(max(clocks[: sizes[0]]))
        for state in self.states:
            state.turn(self.next_position - before)
        behind: dict[object, list[KVLayer]] = {}
        end = 0
        for layer, size in zip(self.managed, sizes, strict=True):
            start, end = end, end + size
            layer.start = self.next_position
            layer.to_shared_clock = None
            if any(clock != self.next_position for clock in clocks[start:end]):
                kind = (layer.clock.device, layer.clock.shape, id(layer.rotary))
                behind.setdefault(kind, []).append(layer)
        if self.clock_mode == "per_layer":
            for group in behind.values():
                shift = (self.next_position - torch.stack([layer.clock for layer in group]))[None, ..., None]
                angles = group[0].rotary.angles(shift.expand(self.rotary.axes, -1, -1, -1, -1))
                for layer, cos, sin in zip(group, *angles, strict=True):
                    layer.to_shared_clock = (cos, sin)
        return [bool(flag) for flag in flags]

    def fork(self) -> KVMemory:
        """A copy that shares every tensor; writing to it leaves this memory as it is, bit for bit."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._hold([layer.fork() for layer in self.layers])
        return other

    def select(self, streams: Sequence[int]) -> KVMemory:
        """A copy that holds some of the streams; a single one shares every tensor."""
        other = self.fork()
        for layer in other.layers:
            layer.select(streams)
        other.sync_clocks()
        return other

    def reset(self) -> None:
        """Empty every layer and set the clock to zero."""
        for layer in self.layers:
            layer.reset()
        self.prefix = self.next_position = self.top = 0
        self.next_summary_id = -2

    def save(
        self,
        folder: str | Path,
        extra: Mapping[str, Any] | None = None,
        beside: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Write the memory to a folder as safetensors and JSON; :func:`load_memory` reads it.

        What was saved there before stays until all of this is on disk, and then goes at once.

        Args:
            extra: entries of the record beside the memory's own.
            beside: more files of tensors, by what they hold and the tensors' names.

        Raises:
            HermesError: tokens are pending.
            InputError: the folder cannot be written to.
        """
        if any(layer.pending for layer in self.managed):
            raise HermesError("a memory with pending tokens cannot be saved: commit or roll back first")
        tensors = {
            f"{layer.index}.{name}": tensor
            for layer in self.managed
            for name, tensor in layer.tensors().items()
        }
        record = {
            "clock": self.clock_mode,
            "keep_written": self.keep_written,
            "next_summary_id": self.next_summary_id,
            "axes": self.rotary.axes,
            "layers": [layer.facts() for layer in self.managed],
        }
        for state in self.states:
            tensors |= {f"state.{state.number}.{name}": tensor for name, tensor in state.tensors().items()}
        if self.states:
            record |= {"kinds": [asdict(spec) for spec in self.specs]}
            record |= {"states": [state.facts() for state in self.states]}
        write_saved(folder, {"memory": tensors, **(beside or {})}, {**record, **(extra or {})})

    def state(self) -> Sequence[Tensor]:
        """Every tensor held, in a fixed order, for comparing two memories."""
        layers = (*self.managed, *self.states)
        return [tensor for layer in layers for tensor in layer.tensors().values()]
