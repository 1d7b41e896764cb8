"""Tokens outside the memory: stored by block on the host or on disk, found by their mean key, read back."""

from __future__ import annotations

import math
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from hermes.config import Settings, setting
from hermes.files import make_folder, writing
from hermes.memory import KVLayer, KVMemory, Tokens, write_tensors
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


@dataclass
class _Slab:
    """Blocks of a layer end to end: in memory, with room for more, or in a file, which has none.

    Attributes:
        first: number of its first block.
        fields: tensors by name.
        tokens, groups: how many are filled along the axis of tokens, and of groups of tokens.
    """

    first: int
    fields: dict[str, Tensor] | Path
    tokens: int = 0
    groups: int = 0


class Archive:
    """Blocks of tokens per layer, with the mean un-rotated key of each block as its index.

    Source: arXiv 2503.00540 (ReKV), generalised: any tokens of any layer, in blocks of any sizes. Keys are
    stored as rotated in the memory, with their positions, so that reading them back elsewhere costs one
    rotation. The index stays on the memory's device. Both grow by a part of what they are, so that adding
    takes as long after a day as at first, and memory is that of the blocks.

    Attributes:
        sizes: tokens of each block, a list a layer.
        newest: id of each block's last token, by which a policy knows what it has stored.
        last: the largest of those, -1 where there is none.
        archived_bytes: of what is stored, the index apart.
    """

    def __init__(self, store: Store, num_layers: int) -> None:
        self.store = store
        self.sizes: list[list[int]] = [[] for _ in range(num_layers)]
        self.newest: list[list[int]] = [[] for _ in range(num_layers)]
        self.last = [-1] * num_layers
        # Where each block begins in its slab, along tokens and groups.
        self._starts = [(array("q"), array("q")) for _ in range(num_layers)]
        self._slabs: list[list[_Slab]] = [[] for _ in range(num_layers)]
        self._index: list[Tensor | None] = [None] * num_layers
        self._files = 0
        self._temporary: Any = None
        self.archived_bytes = 0

    @property
    def resident_bytes(self) -> int:
        """Bytes of the index."""
        return sum(self.index(at).nbytes for at, index in enumerate(self._index) if index is not None)

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
        fields: dict[int, dict[str, Tensor]] = {at: {} for at in sizes}
        for key, tensor in segment.items():
            layer, _, name = key.partition(".")
            fields[int(layer)][name] = tensor
        for at, parts in fields.items():
            if parts["keys.codes" if "keys.codes" in parts else "keys"].shape[2] != sum(sizes[at]):
                raise ValueError(f"layer {at}: not as many tokens as its blocks have")
        # What may fail first, so that all is added or nothing.
        grown = {at: self._with_room(at, means) for at, means in index.items()}
        file = None if self.store.place == "cpu" else self._written(segment)
        slabs = {at: self._slab(at, fields[at], self._groups(sizes[at]), file) for at in sizes}
        for at, means in index.items():
            count, slab, (tokens, groups) = len(self.sizes[at]), slabs[at], self._starts[at]
            grown[at][:, count : count + means.shape[1]] = means
            self._index[at] = grown[at]
            if not self._slabs[at] or slab is not self._slabs[at][-1]:
                self._slabs[at].append(slab)
            for size in sizes[at]:
                tokens.append(slab.tokens)
                groups.append(slab.groups)
                slab.tokens, slab.groups = slab.tokens + size, slab.groups + self._groups([size])
            self.sizes[at] += sizes[at]
            self.newest[at] += newest[at]
            self.last[at] = max(self.last[at], *newest[at])
        self.archived_bytes += sum(tensor.nbytes for tensor in segment.values())

    def _groups(self, sizes: Sequence[int]) -> int:
        return sum(-(-size // min(self.store.group or size, size)) for size in sizes)

    def _with_room(self, at: int, means: Tensor) -> Tensor:
        """The index of a layer with room for more blocks, on their device."""
        old, count = self._index[at], len(self.sizes[at])
        if old is None:
            return means.clone()
        wanted = count + means.shape[1]
        if wanted <= old.shape[1] and old.device == means.device:
            return old
        new = means.new_empty(old.shape[0], max(wanted, count + count // 4), *old.shape[2:])
        new[:, :count] = old[:, :count]
        return new

    def _slab(self, at: int, parts: dict[str, Tensor], groups: int, file: Path | None) -> _Slab:
        """Where a layer's new blocks are: at the end of the last slab, or in a new one."""
        slabs, held = self._slabs[at], len(self.sizes[at])
        if file is not None:
            return _Slab(held, file)
        rows = parts["positions"].shape[3]
        before = sum(slab.tokens for slab in slabs)
        if 4 * rows > before:
            # Large beside the others: a slab of its own, and no copy.
            return _Slab(held, parts)
        if not (slabs and self._fits(slabs[-1], parts, rows, groups)):
            share = before / (4 * rows)
            fields = {}
            for name, x in parts.items():
                axis, length = self._axis(name), x.shape[self._axis(name)]
                shape = [*x.shape[:axis], math.ceil(share * length), *x.shape[axis + 1 :]]
                fields[name] = x.new_empty(shape)
            slab = _Slab(held, fields)
        else:
            slab = slabs[-1]
        for name, x in parts.items():
            start = slab.groups if self._grouped(name) else slab.tokens
            axis = self._axis(name)
            slab.fields[name].narrow(axis, start, x.shape[axis]).copy_(x)  # type: ignore[index]
        return slab

    def _fits(self, slab: _Slab, parts: Mapping[str, Tensor], tokens: int, groups: int) -> bool:
        fields = slab.fields
        if isinstance(fields, Path) or fields.keys() != parts.keys():
            return False
        for name, x in parts.items():
            axis, there = self._axis(name), fields[name]
            end = slab.groups + groups if self._grouped(name) else slab.tokens + tokens
            alike = [*x.shape[:axis], *x.shape[axis + 1 :]] == [*there.shape[:axis], *there.shape[axis + 1 :]]
            if end > there.shape[axis] or not alike or there.dtype != x.dtype:
                return False
        return True

    def _grouped(self, name: str) -> bool:
        """Whether a field has an entry for each group of tokens, and not for each token."""
        kind, _, part = name.partition(".")
        return part in ("low", "step") and self._along[kind] == "tokens"

    @staticmethod
    def _axis(name: str) -> int:
        return 3 if name in ("positions", "origin") else 2

    def _written(self, segment: dict[str, Tensor]) -> Path:
        with writing(self.store.folder or tempfile.gettempdir(), "The archive's files were to lie there."):
            if self._temporary is None:
                if self.store.folder is not None:
                    make_folder(self.store.folder)
                self._temporary = tempfile.TemporaryDirectory(prefix="archive_", dir=self.store.folder)
            path = Path(self._temporary.name) / f"{self._files}.safetensors"
            write_tensors(path, segment)
        self._files += 1
        return path

    def index(self, layer: int) -> Float[Tensor, "B N H D"]:
        """Mean un-rotated key of every block of a layer."""
        index = self._index[layer]
        if index is not None:
            return index[:, : len(self.sizes[layer])]
        # A layer without a block yet: none, of the shape that others have.
        return next((one[:, :0] for one in self._index if one is not None), torch.empty(1, 0, 1, 1))

    def read(self, layer: int, blocks: Iterable[int], device: torch.device | str = "cpu") -> list[Tokens]:
        """Blocks of a layer as they were, or as near as their integers say."""
        return [self._decode(layer, number, device) for number in blocks]

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

    def _decode(self, layer: int, number: int, device: torch.device | str) -> Tokens:
        slabs, size = self._slabs[layer], self.sizes[layer][number]
        fields = slabs[bisect_right(slabs, number, key=lambda slab: slab.first) - 1].fields
        token, group = (starts[number] for starts in self._starts[layer])
        piece = slice(token, token + size), slice(group, group + self._groups([size]))
        if isinstance(fields, Path):
            # A tensor in a file is cut before it is read.
            with safe_open(fields, framework="pt") as file:
                return self._tokens(
                    layer, *piece, lambda name, cut: file.get_slice(f"{layer}.{name}")[cut].to(device)
                )
        return self._tokens(layer, *piece, lambda name, cut: fields[name][cut].to(device))

    def _tokens(self, layer: int, tokens: slice, groups: slice, get: Callable[[str, Cut], Tensor]) -> Tokens:
        every = slice(None)
        here, bits = (every, every, tokens), _BITS[self.store.precision]
        pair = []
        for name, along in self._along.items():
            if not bits:
                pair.append(get(name, here))
                continue
            at = (every, every, groups if along == "tokens" else tokens)
            codes = Codes(get(f"{name}.codes", here), get(f"{name}.low", at), get(f"{name}.step", at))
            pair.append(dequantise(codes, bits, along, self.index(layer).shape[-1], self.store.group))
        wide = (every, every, every, tokens)
        return Tokens(pair[0], pair[1], get("positions", wide), Provenance(get("origin", wide)))

    @property
    def _along(self) -> dict[str, Along]:
        return {"keys": "tokens", "values": self.store.values}

    def state(self) -> dict[str, Tensor]:
        """Everything held, for saving a stream; where it is in memory, no copies."""
        out: dict[str, Tensor] = {}
        for at, slabs in enumerate(self._slabs):
            ends = [*(slab.first for slab in slabs[1:]), len(self.sizes[at])]
            for number, (slab, end) in enumerate(zip(slabs, ends, strict=True)):
                rows = zip(self.sizes[at][slab.first : end], self.newest[at][slab.first : end], strict=True)
                held = {
                    **self._held(at, slab),
                    "blocks": torch.tensor([list(row) for row in rows]),
                    "index": self.index(at)[:, slab.first : end],
                }
                out |= {f"{number}/{at}.{name}": tensor for name, tensor in held.items()}
        return out

    def _held(self, at: int, slab: _Slab) -> dict[str, Tensor]:
        if isinstance(slab.fields, Path):
            with safe_open(slab.fields, framework="pt") as file:
                own = [key for key in file.keys() if key.startswith(f"{at}.")]  # noqa: SIM118
                return {key.partition(".")[2]: file.get_tensor(key) for key in own}
        filled = {True: slab.groups, False: slab.tokens}
        return {
            name: x.narrow(self._axis(name), 0, filled[self._grouped(name)])
            for name, x in slab.fields.items()
        }

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
        means.append(layer.rotary.unstretched(plain.mean(dim=2)).to(block.keys.dtype))
    return torch.stack(means, dim=1)
