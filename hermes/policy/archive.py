"""Tokens outside the memory: stored by block on the host or on disk, found by their mean key, read back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hermes.config import Settings, setting
from hermes.memory import KVLayer, KVMemory, Tokens
from hermes.policy.quantise import Along, Codes, dequantise, quantise
from hermes.tokens import Provenance

__all__ = ["Archive", "Store", "mean_keys"]

Cut = tuple[slice, ...]
_BITS = {"exact": 0, "int8": 8, "int4": 4, "int2": 2}


@dataclass
class Store(Settings):
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
        plain = layer.rotary.rotate(block.keys.float(), -block.positions)
        means.append((plain.mean(dim=2) / layer.rotary.scaling).to(block.keys.dtype))
    return torch.stack(means, dim=1)
