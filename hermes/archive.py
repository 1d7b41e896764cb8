"""Tokens outside the memory: stored by block on the host or on disk, found by their mean key, read back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hermes.config import setting
from hermes.layer import KVLayer, Tokens
from hermes.memory import KVMemory
from hermes.policy import Bound, MemoryPolicy, StreamContext
from hermes.positions import dense_ranks
from hermes.provenance import Provenance
from hermes.quantise import Along, Codes, dequantise, quantise

__all__ = ["Archive", "Archiving", "Store", "mean_keys", "put_back"]

Cut = tuple[slice, ...]
_BITS = {"exact": 0, "int8": 8, "int4": 4, "int2": 2}


@dataclass
class Store:
    """Where archived keys and values are kept, and how exactly (settings ``policy.store.*``).

    Source: arXiv 2402.02750 (KIVI) for the integers: keys per channel, values per token. A group never spans
    two blocks.
    """

    place: Literal["cpu", "disk"] = setting("cpu", help="the host's memory, or files")
    folder: Path | None = setting(None, help="of the files of place=disk; default: a temporary one")
    precision: Literal["exact", "int8", "int4", "int2"] = setting(
        "exact", help="exact: as the memory holds them; else integers of so many bits"
    )
    group: int | None = setting(
        32, help="values of one minimum and scale: tokens for keys; null: a whole block or head", ge=1
    )
    values: Literal["channels", "tokens"] = setting(
        "channels", help="values are grouped along the channels of a token, or along tokens as keys are"
    )


class _Piece(NamedTuple):
    """Where a block lies in its segment: tokens and, along the tokens, groups."""

    segment: int
    tokens: slice
    groups: slice


class Archive:
    """Blocks of tokens per layer, with the mean un-rotated key of each block as its index.

    Source: arXiv 2503.00540 (ReKV), generalised: any tokens of any layer, in blocks of any sizes. Keys are
    stored as rotated in the memory, with their positions, so that reading them back elsewhere costs one
    rotation. The index stays on the memory's device.
    """

    def __init__(self, store: Store, num_layers: int) -> None:
        self.store = store
        self.sizes: list[list[int]] = [[] for _ in range(num_layers)]
        # Id of each block's last token, by which a policy knows what it has stored.
        self.newest: list[list[int]] = [[] for _ in range(num_layers)]
        self._pieces: list[list[_Piece]] = [[] for _ in range(num_layers)]
        self._index: list[Tensor | None] = [None] * num_layers
        self._segments: list[dict[str, Tensor] | Path] = []
        self._temporary: Any = None
        self.archived_bytes = 0

    @property
    def resident_bytes(self) -> int:
        """Bytes of the index."""
        return sum(index.nbytes for index in self._index if index is not None)

    def add(
        self,
        memory: KVMemory,
        slots: Mapping[int, Int[Tensor, "B R K"]],
        sizes: Mapping[int, Sequence[int]],
    ) -> None:
        """Store held tokens: all of it, or nothing if it fails.

        Args:
            slots: per layer, which (0: first of the prefix), in time order.
            sizes: per layer, tokens of each block; they sum to K.
        """
        segment: dict[str, Tensor] = {}
        index, newest = {}, {}
        for at, chosen in slots.items():
            if not sizes[at]:
                continue
            layer = memory[at]
            blocks = layer.take(chosen).split(sizes[at])
            parts = [self._encode(block) for block in blocks]
            for name in parts[0]:
                axis = 3 if name in ("positions", "origin") else 2
                segment[f"{at}.{name}"] = torch.cat([part[name] for part in parts], dim=axis).cpu()
            index[at] = mean_keys(layer, blocks)
            newest[at] = [int(block.origin.id.max()) for block in blocks]
        if segment:
            self._append(segment, {at: list(sizes[at]) for at in index}, index, newest)

    def _append(
        self,
        segment: dict[str, Tensor],
        sizes: Mapping[int, list[int]],
        index: Mapping[int, Tensor],
        newest: Mapping[int, list[int]],
    ) -> None:
        number = len(self._segments)
        self._segments.append(segment if self.store.place == "cpu" else self._written(segment, number))
        self.archived_bytes += sum(tensor.nbytes for tensor in segment.values())
        for at, means in index.items():
            old = self._index[at]
            self._index[at] = means if old is None else torch.cat((old.to(means.device), means), dim=1)
            self.sizes[at] += sizes[at]
            self.newest[at] += newest[at]
            token = group = 0
            for size in sizes[at]:
                groups = -(-size // min(self.store.group or size, size))
                piece = _Piece(number, slice(token, token + size), slice(group, group + groups))
                self._pieces[at].append(piece)
                token, group = token + size, group + groups

    def _written(self, segment: dict[str, Tensor], number: int) -> Path:
        if self._temporary is None:
            if self.store.folder is not None:
                self.store.folder.mkdir(parents=True, exist_ok=True)
            self._temporary = tempfile.TemporaryDirectory(prefix="archive_", dir=self.store.folder)
        path = Path(self._temporary.name) / f"{number}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in segment.items()}, path)
        return path

    def index(self, layer: int) -> Float[Tensor, "B N H D"]:
        """Mean un-rotated key of every block of a layer."""
        index = self._index[layer]
        if index is not None:
            return index
        # A layer without a block yet: none, of the shape that others have.
        return next((one[:, :0] for one in self._index if one is not None), torch.empty(1, 0, 1, 1))

    def read(self, layer: int, blocks: Iterable[int], device: torch.device | str = "cpu") -> list[Tokens]:
        """Blocks of a layer as they were, or as near as their integers say."""
        return [self._decode(layer, self._pieces[layer][number], device) for number in blocks]

    def _encode(self, block: Tokens) -> dict[str, Tensor]:
        out = {"positions": block.positions, "origin": block.origin.table}
        bits = _BITS[self.store.precision]
        for name, along in self._along.items():
            x = block.keys if name == "keys" else block.values
            if bits:
                codes = quantise(x, bits, along, self.store.group)
                out |= {f"{name}.{field}": part for field, part in codes._asdict().items()}
            else:
                out[name] = x
        return out

    def _decode(self, layer: int, piece: _Piece, device: torch.device | str) -> Tokens:
        segment = self._segments[piece.segment]
        if isinstance(segment, Path):
            # A tensor in a file is cut before it is read.
            with safe_open(segment, framework="pt") as file:
                return self._tokens(
                    layer, piece, lambda name, cut: file.get_slice(f"{layer}.{name}")[cut].to(device)
                )
        return self._tokens(layer, piece, lambda name, cut: segment[f"{layer}.{name}"][cut].to(device))

    def _tokens(self, layer: int, piece: _Piece, get: Callable[[str, Cut], Tensor]) -> Tokens:
        every = slice(None)
        here, bits = (every, every, piece.tokens), _BITS[self.store.precision]
        pair = []
        for name, along in self._along.items():
            if not bits:
                pair.append(get(name, here))
                continue
            groups = (every, every, piece.groups if along == "tokens" else piece.tokens)
            codes = Codes(get(f"{name}.codes", here), get(f"{name}.low", groups), get(f"{name}.step", groups))
            pair.append(dequantise(codes, bits, along, self.index(layer).shape[-1], self.store.group))
        wide = (every, every, every, piece.tokens)
        return Tokens(pair[0], pair[1], get("positions", wide), Provenance(get("origin", wide)))

    @property
    def _along(self) -> dict[str, Along]:
        return {"keys": "tokens", "values": self.store.values}

    def state(self) -> dict[str, Tensor]:
        """Everything held, for saving a stream."""
        out: dict[str, Tensor] = {}
        for number, segment in enumerate(self._segments):
            if isinstance(segment, Path):
                with safe_open(segment, framework="pt") as file:
                    segment = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            out |= {f"{number}/{name}": tensor for name, tensor in segment.items()}
            for at in {int(name.split(".")[0]) for name in segment}:
                mine = [i for i, piece in enumerate(self._pieces[at]) if piece.segment == number]
                rows = [[self.sizes[at][i], self.newest[at][i]] for i in mine]
                out[f"{number}/{at}.blocks"] = torch.tensor(rows)
                out[f"{number}/{at}.index"] = self.index(at)[:, mine[0] : mine[-1] + 1]
        return out

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` gave, in an archive that is empty."""
        segments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            number, _, name = key.partition("/")
            segments.setdefault(int(number), {})[name] = tensor
        for _, segment in sorted(segments.items()):
            layers = [int(name.split(".")[0]) for name in segment if name.endswith(".blocks")]
            rows = {at: segment.pop(f"{at}.blocks").tolist() for at in layers}
            index = {at: segment.pop(f"{at}.index") for at in layers}
            sizes, newest = ({at: [row[i] for row in rows[at]] for at in layers} for i in (0, 1))
            self._append(segment, sizes, index, newest)


def mean_keys(layer: KVLayer, blocks: Sequence[Tokens]) -> Float[Tensor, "B N H D"]:
    """Mean of each block's keys with their rotation taken off, in the dtype of the keys.

    Source: arXiv 2503.00540 (ReKV): the index of a block.
    """
    means = []
    for block in blocks:
        plain = layer.rotary.turn(block.keys.float(), -block.positions)
        means.append((plain.mean(dim=2) / layer.rotary.scaling).to(block.keys.dtype))
    return torch.stack(means, dim=1)


def put_back(
    memory: KVMemory,
    blocks: Mapping[int, Sequence[Tokens]],
    keep: Mapping[int, Int[Tensor, "B R K"]] | None = None,
) -> None:
    """Let layers hold their prefix, then blocks, then some of what they held, at contiguous positions.

    Source: arXiv 2503.00540 (ReKV): retrieved blocks count as consecutive tokens. Each block, and what is
    kept, starts one behind the largest position before it and is dense on every position axis; keys are
    rotated there from where they were. For one axis that is 0, 1, 2, ...

    Args:
        memory: a fork, which is changed.
        blocks: per layer, in time order; layers not named stay as they are.
        keep: per layer, slots after the prefix that stay behind the blocks; none by default.
    """
    for index, found in blocks.items():
        layer = memory[index]
        device, dtype = layer.keys.device, layer.keys.dtype
        batch = layer.clock.shape[0]
        fixed = torch.arange(layer.prefix, device=device).expand(batch, 1, -1)
        parts = [layer.take(fixed), *(_moved(block, device, dtype) for block in found)]
        if keep is not None and index in keep and keep[index].shape[-1]:
            parts.append(layer.take(keep[index].to(device)))
        held = Tokens.cat(parts)
        places = [parts[0].positions.expand(-1, -1, held.positions.shape[2], -1)]
        clock = torch.floor(places[0].amax(dim=(0, -1))) + 1  # [B, R]
        for piece in held.positions.split([len(part) for part in parts], dim=-1)[1:]:
            places.append(dense_ranks(piece) + clock[None, ..., None])
            clock = places[-1].amax(dim=(0, -1)) + 1
        positions = torch.cat(places, dim=-1)
        keys = layer.rotary.turn(held.keys, positions - held.positions)
        layer.hold(Tokens(keys, held.values, positions, held.origin))
    memory.align()


def _moved(block: Tokens, device: torch.device, dtype: torch.dtype) -> Tokens:
    return Tokens(
        block.keys.to(device, dtype),
        block.values.to(device, dtype),
        block.positions.to(device),
        block.origin.to(device),
    )


class Archiving(MemoryPolicy):
    """A policy with an archive: it grows with the stream, while what the decoder reads does not.

    Source: this project. A subclass has a setting ``store`` and calls ``self.archived.add`` in its hook
    ``archive``, and :func:`put_back` in ``recall``. Streams go one at a time.
    """

    bound: ClassVar[Bound] = "growing"
    lockstep: ClassVar[bool] = False

    store: Store
    archived: Archive

    def start(self, context: StreamContext) -> None:
        """Begin a stream with an empty archive."""
        super().start(context)
        self.archived = Archive(self.store, context.num_layers)

    @property
    def archived_bytes(self) -> int:
        """Bytes of what is stored outside the memory."""
        return self.archived.archived_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of the index, which lies where the memory does."""
        return self.archived.resident_bytes

    def state(self) -> Mapping[str, Tensor]:
        """The archive."""
        return {f"archive/{name}": tensor for name, tensor in self.archived.state().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the archive."""
        own = {k.removeprefix("archive/"): t for k, t in state.items() if k.startswith("archive/")}
        self.archived.restore(own)
