"""One layer of the memory, and the updates a policy can ask of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from hermes.errors import HermesError
from hermes.kernels import Kernels
from hermes.memory.scope import check_scope
from hermes.memory.updates import LayerUpdate, Mix
from hermes.tokens import Provenance, Rotary


@dataclass(frozen=True)
class Tokens:
    """Some tokens of one layer on their own: what is taken out of a memory, and put back.

    Attributes:
        keys, values: ``[B, H, T, D]``; keys are rotated at ``positions``.
        positions: float32 ``[A, B, R, T]``; R is 1 or the KV heads.
        origin: their provenance, table ``[8, B, R, T]``.
    """

    keys: Float[Tensor, "B H T D"]
    values: Float[Tensor, "B H T D"]
    positions: Float[Tensor, "A B R T"]
    origin: Provenance

    def __len__(self) -> int:
        return self.keys.shape[2]

    def split(self, sizes: Sequence[int]) -> list[Tokens]:
        """The tokens cut into consecutive pieces of these sizes."""
        of = list(sizes)
        columns = (self.keys.split(of, 2), self.values.split(of, 2), self.positions.split(of, 3))
        tables = [Provenance(table) for table in self.origin.table.split(of, 3)]
        return [Tokens(k, v, p, t) for k, v, p, t in zip(*columns, tables, strict=True)]

    @staticmethod
    def cat(parts: Sequence[Tokens]) -> Tokens:
        """All pieces in order; where one has a row for every KV head, all get one."""
        rows = max(part.positions.shape[2] for part in parts)
        return Tokens(
            torch.cat([part.keys for part in parts], dim=2),
            torch.cat([part.values for part in parts], dim=2),
            torch.cat([part.positions.expand(-1, -1, rows, -1) for part in parts], dim=3),
            Provenance(torch.cat([part.origin.table.expand(-1, -1, rows, -1) for part in parts], dim=3)),
        )


class KVLayer(DynamicLayer):  # type: ignore[misc]
    """One layer: keys rotated at the layer's own positions, values, positions and provenance.

    Positions per layer as in arXiv 2601.14724, Sec. 3.3.

    ``positions`` is float32 ``[A, B, R, T]`` and the provenance table ``[8, B, R, T]``; R is 1 until a
    selection per KV head makes it the number of KV heads. ``clock`` ``[B, R]`` is the layer's next
    position. Tokens appended by a forward pass but not yet committed are pending.
    """

    def __init__(self, index: int, rotary: Rotary, kernels: Kernels, number: int | None = None) -> None:
        super().__init__()
        self.keys: Any = None
        self.values: Any = None
        self.is_initialized: bool = False
        # Among the managed layers, and of the decoder layer.
        self.index = index
        self.number = index if number is None else number
        self.rotary = rotary
        self.kernels = kernels
        self.prefix = 0
        self.positions: Float[Tensor, "A B R T"] | None = None
        self.tokens: Provenance | None = None
        self.clock: Float[Tensor, "B R"] = torch.zeros(1, 1)
        # Rotation from the layer's own clock to the memory's shared one; None where they agree.
        self.to_shared_clock: tuple[Tensor, Tensor] | None = None
        # Keys and positions as first written, where the memory keeps them.
        self.written: tuple[Tensor, Tensor] | None = None
        self.start = 0
        # Known on the host, so that selectors need not ask the device.
        self.has_timestamps = self.has_protected = False

    def __repr__(self) -> str:
        waiting = f", {self.pending} pending" if self.pending else ""
        rows = f", its own for each of {self.rows} heads" if self.rows > 1 else ""
        return (
            f"<{type(self).__name__} {self.index}: {self.length} tokens{rows}, {self.prefix} of them the "
            f"prefix{waiting}>"
        )

    @property
    def length(self) -> int:
        """Tokens held, prefix included, pending ones not."""
        return 0 if self.positions is None else int(self.positions.shape[-1])

    @property
    def video_length(self) -> int:
        """Tokens held after the prefix."""
        return self.length - self.prefix

    @property
    def rows(self) -> int:
        """1 where all KV heads hold the same tokens, else the number of KV heads."""
        return 1 if self.positions is None else int(self.positions.shape[2])

    @property
    def pending(self) -> int:
        """Tokens appended by a forward pass but not yet committed."""
        return 0 if self.keys is None or self.keys.numel() == 0 else int(self.keys.shape[-2]) - self.length

    @property
    def video(self) -> Provenance:
        """Provenance of the tokens after the prefix, table ``[8, B, R, V]``."""
        return Provenance(self.origin.table[..., self.prefix :])

    @property
    def origin(self) -> Provenance:
        """Provenance of everything held, table ``[8, B, R, T]``.

        Raises:
            HermesError: the layer is empty.
        """
        if self.tokens is None:
            raise HermesError(f"layer {self.index} of the memory is empty")
        return self.tokens

    def video_keys(self) -> Float[Tensor, "B H V D"]:
        """Keys after the prefix, rotated at their positions."""
        keys: Tensor = self.keys[:, :, self.prefix : self.length]
        return keys

    def video_values(self) -> Float[Tensor, "B H V D"]:
        """Values after the prefix."""
        values: Tensor = self.values[:, :, self.prefix : self.length]
        return values

    def keeping(self, video_index: Int[Tensor, "*rows K"], mix: Mix | None = None) -> LayerUpdate:
        """Keeps the prefix and the video tokens at ``video_index`` (0: first after the prefix)."""
        index = video_index.reshape((1,) * (3 - video_index.ndim) + video_index.shape)
        return LayerUpdate(_slots(index.to(self.keys.device), self.prefix), mix)

    def take(self, slots: Int[Tensor, "B R K"]) -> Tokens:
        """The tokens at these slots (0: first of the prefix), copied.

        Raises:
            HermesError: the layer is empty.
        """
        batch, heads, _, width = self.keys.shape
        if self.positions is None:
            raise HermesError(f"layer {self.index} of the memory is empty")
        rows = max(self.rows, slots.shape[1])
        one = slots.expand(batch, rows, -1)
        wide = slots.expand(batch, heads, -1).unsqueeze(-1).expand(-1, -1, -1, width)
        at = one.expand(self.positions.shape[0], -1, -1, -1)
        table = self.origin.table.expand(-1, -1, rows, -1)
        return Tokens(
            self.keys.gather(2, wide),
            self.values.gather(2, wide),
            self.positions.expand(-1, -1, rows, -1).gather(3, at),
            Provenance(table.gather(3, one.expand(table.shape[0], -1, -1, -1))),
        )

    def hold(self, tokens: Tokens) -> None:
        """Hold these tokens and no others; the clock goes behind them (``KVMemory.sync_clocks`` follows)."""
        self.keys, self.values = tokens.keys, tokens.values
        self.positions, self.tokens = tokens.positions, tokens.origin
        self.clock = torch.floor(tokens.positions.amax(dim=(0, -1))) + 1
        if self.written is not None:
            self.written = (tokens.keys, tokens.positions)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys (turned from the shared clock to this layer's own) and values; called by the model."""
        check_scope(self, self.index, self.length)
        key_states = self.rotary.canonical(key_states)
        if self.to_shared_clock is not None:
            cos, sin = self.to_shared_clock
            key_states = self.kernels.rotate(key_states, cos, -sin)
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = key_states, value_states
            self.is_initialized = True
        else:
            self.keys = torch.cat((self.keys, key_states), dim=-2)
            self.values = torch.cat((self.values, value_states), dim=-2)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """The shared next position, pending tokens included: what transformers takes for the length."""
        return self.start + self.pending

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Only what follows the memory: every query sees all of the memory, so no mask is needed for it."""
        return self.pending + query_length, self.start

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every batch entry for beam search; called by transformers."""
        super().batch_repeat_interleave(repeats)
        if self.to_shared_clock is not None and self.to_shared_clock[0].shape[0] > 1:
            self.to_shared_clock = tuple(
                part.repeat_interleave(repeats, dim=0) for part in self.to_shared_clock
            )  # type: ignore[assignment]

    def reset(self) -> None:
        """Empty the layer and set its clock to zero."""
        self.keys = self.values = None
        self.is_initialized = False
        self.positions = self.tokens = self.to_shared_clock = self.written = None
        self.clock = torch.zeros(1, 1)
        self.prefix = self.start = 0
        self.has_timestamps = self.has_protected = False

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor held, by name; none where the layer is empty."""
        if self.positions is None:
            return {}
        named = {
            "keys": self.keys,
            "values": self.values,
            "positions": self.positions,
            "tokens": self.origin.table,
            "clock": self.clock,
        }
        if self.written is not None:
            named |= {"written_keys": self.written[0], "written_positions": self.written[1]}
        return named

    def facts(self) -> dict[str, Any]:
        """What a saved layer must hold besides its tensors."""
        return {
            "prefix": self.prefix,
            "has_timestamps": self.has_timestamps,
            "has_protected": self.has_protected,
        }

    def load(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Hold what :meth:`facts` and :meth:`tensors` gave."""
        self.prefix = facts["prefix"]
        self.has_timestamps, self.has_protected = facts["has_timestamps"], facts["has_protected"]
        if not tensors:
            return
        self.keys, self.values = tensors["keys"], tensors["values"]
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True
        self.positions, self.clock = tensors["positions"], tensors["clock"]
        self.tokens = Provenance(tensors["tokens"])
        if "written_keys" in tensors:
            self.written = (tensors["written_keys"], tensors["written_positions"])

    def fork(self) -> KVLayer:
        """A shallow copy that shares every tensor."""
        other = KVLayer.__new__(KVLayer)
        other.__dict__.update(self.__dict__)
        return other

    def select(self, streams: Sequence[int]) -> None:
        """Keep only some streams of the batch."""
        if self.positions is None:
            return
        one = slice(streams[0], streams[0] + 1)
        rows: Any = one if len(streams) == 1 else torch.tensor(streams, device=self.keys.device)
        self.keys, self.values = self.keys[rows], self.values[rows]
        self.positions, self.tokens = self.positions[:, rows], Provenance(self.origin.table[:, rows])
        self.clock = self.clock[rows]
        if self.written is not None:
            self.written = (self.written[0][rows], self.written[1][:, rows])

    def widen(self, rows: int) -> None:
        """Give every KV head its own row of positions and provenance."""
        if self.positions is None or self.rows == rows:
            return
        self.positions = self.positions.expand(-1, -1, rows, -1)
        self.tokens = Provenance(self.origin.table.expand(-1, -1, rows, -1))
        self.clock = self.clock.expand(-1, rows)
        if self.written is not None:
            self.written = (self.written[0], self.written[1].expand(-1, -1, rows, -1))


def _slots(index: Int[Tensor, "*rows K"], prefix: int) -> Int[Tensor, "*rows K_prefix"]:
    """Slots of the prefix and of video tokens, ascending."""
    head = torch.arange(prefix, device=index.device).expand(*index.shape[:-1], -1)
    return torch.cat((head, index.sort(dim=-1).values + prefix), dim=-1)


def keeping(layers: Sequence[KVLayer], indices: Sequence[Int[Tensor, "B R _K"]]) -> list[LayerUpdate]:
    """What :meth:`KVLayer.keeping` gives for each layer, with one operation for all that are alike."""
    out: dict[int, LayerUpdate] = {}
    groups: dict[Hashable, list[int]] = {}
    for at, (layer, index) in enumerate(zip(layers, indices, strict=True)):
        groups.setdefault((layer.prefix, index.device, index.shape), []).append(at)
    for group in groups.values():
        slots = _slots(torch.stack([indices[at] for at in group]), layers[group[0]].prefix)
        out |= {at: LayerUpdate(keep) for at, keep in zip(group, slots, strict=True)}
    return [out[at] for at in range(len(out))]
