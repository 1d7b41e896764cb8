"""What happens to positions and provenance of many layers at once: small tensors, one operation for all."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hermes.kernels import MixPlan, Rotation
from hermes.memory.layer import KVLayer
from hermes.memory.updates import LayerUpdate, Mix
from hermes.tokens import Provenance, Rotary, TokenKind, compacted


def group_alike(layers: Iterable[KVLayer], updates: Mapping[int, LayerUpdate]) -> list[list[KVLayer]]:
    """Layers grouped so that those of a group can be taken as one layer with more streams.

    They hold equally many tokens, keep and mix equally many, lie on one device and rotate alike.
    Layers that keep a second copy of their keys go alone.
    """
    groups: dict[Hashable, list[KVLayer]] = {}
    for layer in layers:
        update = updates.get(layer.index)
        mix = None if update is None else update.mix
        key = (
            (layer.length, layer.prefix, layer.rows, tuple(layer.keys.shape), layer.keys.device),
            None if update is None else tuple(update.keep.shape),
            None
            if mix is None
            else (
                tuple(mix.members.shape),
                mix.size,
                mix.groups is None,
                None if mix.targets is None else tuple(mix.targets.shape),
            ),
            layer.index if layer.written is not None else -1,
            id(layer.rotary),
        )
        groups.setdefault(key, []).append(layer)
    return list(groups.values())


def invalid_updates(layers: Sequence[KVLayer], updates: Sequence[LayerUpdate]) -> Bool[Tensor, " G"]:
    """Whether slots break the rules of an update: ascending, held, and the prefix among them."""
    keep = torch.stack([update.keep for update in updates])  # [G, B, R, K]
    prefix, length = layers[0].prefix, layers[0].length
    if keep.shape[-1] < max(prefix, 1):
        return torch.ones(len(layers), dtype=torch.bool, device=keep.device)
    wrong = (keep[..., 0] < 0) | (keep[..., -1] >= length)
    if prefix:
        # Ascending from 0 or more, the prefix is whole if its last slot is in its place.
        wrong = wrong | (keep[..., prefix - 1] != prefix - 1)
    return (wrong | (keep.diff(dim=-1) <= 0).any(dim=-1)).flatten(1).any(dim=1)


def append_pending(
    layers: Sequence[KVLayer],
    positions: Float[Tensor, "A n"],
    table: Int[Tensor, "8 #B 1 n"],
    advance: int,
    *,
    keep_written: bool = False,
) -> None:
    """Give the pending tokens of layers their positions, relative to each layer's clock, and provenance.

    With ``keep_written`` their keys are held a second time, too.
    """
    first = layers[0]
    batch, rows, device = first.keys.shape[0], first.rows, first.keys.device
    # Not blocking: a copy that waits would wait for the chunk's whole forward.
    relative = positions.to(device, torch.float32, non_blocking=True)
    if first.positions is None:
        clock = torch.zeros(len(layers) * batch, 1, device=device)
    else:
        clock = fold_streams([layer.clock for layer in layers], 0)
    new = clock[None, :, :, None] + relative[:, None, None, :]
    if keep_written:
        for layer, at in zip(layers, new.split(batch, dim=1), strict=True):
            keys = layer.keys[:, :, layer.length :]
            if layer.written is not None:
                keys, at = torch.cat((layer.written[0], keys), 2), torch.cat((layer.written[1], at), -1)
            layer.written = (keys, at)
    table = table.to(device, non_blocking=True).expand(-1, batch, rows, -1).repeat(1, len(layers), 1, 1)
    if first.positions is not None:
        new = torch.cat((fold_streams([layer.positions for layer in layers], 1), new), dim=-1)
        table = torch.cat((fold_streams([layer.origin.table for layer in layers], 1), table), dim=-1)
    unfold_streams(layers, new, table, clock + advance)


def evict(
    layers: Sequence[KVLayer],
    updates: Sequence[LayerUpdate | None],
    compact: bool | Bool[Tensor, " B"],
    summary_id: int | Tensor,
) -> None:
    """Let layers of one group keep what their updates name, mix, and re-index.

    Source: arXiv 2601.14724, Sec. 3.3, Eq. 6, App. F.

    Args:
        layers: as :func:`group_alike` groups them.
        updates: one a layer, or None for all.
        compact: whether positions become dense, or for which streams.
        summary_id: id of the first mixed token.
    """
    first, count = layers[0], len(layers)
    batch, rotary = first.keys.shape[0], first.rotary
    given = [update for update in updates if update is not None]
    keeps: list[Tensor] = [update.keep for update in given]
    if given and max(keeps[0].shape[1], first.rows) > 1:
        for layer in layers:
            layer.widen(int(layer.keys.shape[1]))
        keeps = [keep.expand(-1, first.rows, -1) for keep in keeps]
    positions = fold_streams([layer.positions for layer in layers], 1)
    held = fold_streams([layer.origin.table for layer in layers], 1)
    keep = fold_streams([keep.expand(batch, -1, -1) for keep in keeps], 0) if given else None
    kept = positions if keep is None else gather_last(positions, keep)
    table = held if keep is None else gather_last(held, keep)
    new = kept if compact is False else compacted(kept, first.prefix)
    if isinstance(compact, Tensor):
        new = torch.where(compact.to(kept.device).repeat(count)[:, None, None], new, kept)

    origin = kept
    if first.written is not None:
        origin = first.written[1] if keep is None else gather_last(first.written[1], keep)
    rotations: list[Rotation] | None = None
    if compact is not False:
        rotations = [rotary.rotation(shift) for shift in (new - origin).split(batch, dim=1)]
    plans: list[MixPlan] | None = None
    mixes = [update.mix for update in given if update.mix is not None]
    if mixes and keep is not None:
        mix = _folded(mixes, batch, keep.shape[1])
        plan, place, summary = _plan(rotary, positions, held, mix, keep, new, table, summary_id)
        plans = _split(plan, batch)
        if mix.targets is None:
            new, table = torch.cat((new, place), dim=-1), torch.cat((table, summary), dim=-1)
        else:
            table = summary
    for index, layer in enumerate(layers):
        layer.keys, layer.values = layer.kernels.compact_layer(
            layer.keys,
            layer.values,
            keeps[index] if keeps else None,
            rotations[index] if rotations is not None else None,
            plans[index] if plans is not None else None,
            source=None if layer.written is None else layer.written[0],
        )
    if first.written is not None:
        _rewrite(first, keeps[0] if keeps else None, plans[0] if plans else None, origin, new)
    clock = torch.floor(new.amax(dim=(0, -1))) + 1 if new.shape[-1] else new.new_zeros(new.shape[1:3])
    unfold_streams(layers, new, table, clock)


def unfold_streams(layers: Sequence[KVLayer], positions: Tensor, table: Tensor, clock: Tensor) -> None:
    """Give each layer its own part of what was folded along the streams' axis."""
    batch = layers[0].keys.shape[0]
    parts = (positions.split(batch, 1), table.split(batch, 1), clock.split(batch, 0))
    for layer, at, origin, own in zip(layers, *parts, strict=True):
        layer.positions, layer.tokens, layer.clock = at, Provenance(origin), own


def _rewrite(layer: KVLayer, keep: Tensor | None, plan: MixPlan | None, at: Tensor, new: Tensor) -> None:
    """Follow with the keys as first written; a mixed token is first written where it is mixed."""
    written: Any = layer.written
    keys = written[0]
    if keep is not None:
        keys, _ = layer.kernels.compact_layer(keys, keys, keep, None, None)
    if plan is not None and plan.targets is None:
        keys = torch.cat((keys, layer.keys[:, :, -plan.size :]), dim=2)
        at = torch.cat((at, new[..., -plan.size :]), dim=-1)
    elif plan is not None and plan.targets is not None:
        slots = plan.targets.expand(*keys.shape[:2], -1).unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
        keys = keys.scatter(2, slots, layer.keys.gather(2, slots))
        chosen = plan.targets.expand(*at.shape[1:3], -1).expand(at.shape[0], -1, -1, -1)
        at = at.scatter(3, chosen, new.gather(3, chosen))
    layer.written = (keys, at)


def _folded(mixes: Sequence[Mix], batch: int, rows: int) -> Mix:
    def fold(tensors: Sequence[Tensor | None]) -> Tensor | None:
        given = [x.expand(batch, rows, -1) for x in tensors if x is not None]
        return fold_streams(given, 0) if given else None

    members: Any = fold([mix.members for mix in mixes])
    weights: Any = fold([mix.weights for mix in mixes])
    groups, targets = fold([mix.groups for mix in mixes]), fold([mix.targets for mix in mixes])
    return Mix(members, weights, groups, mixes[0].size, targets)


def _plan(
    rotary: Rotary,
    positions: Tensor,
    held: Tensor,
    mix: Mix,
    keep: Tensor,
    new: Tensor,
    table: Tensor,
    summary_id: int | Tensor,
) -> tuple[MixPlan, Tensor, Tensor]:
    """Rotation of the members, positions ``[A, N, R, S]`` and provenance of the mixed tokens."""
    batch, rows = keep.shape[:2]
    members, weights, groups = mix.members, mix.weights, mix.groups
    targets = None
    if mix.targets is None:
        last = new.amax(dim=(0, -1)) if new.shape[-1] else new.new_full((batch, rows), -1.0)
        place = last[..., None] + torch.arange(1, mix.size + 1, device=new.device)
        place = place.expand(new.shape[0], -1, -1, -1)
    else:
        targets = torch.searchsorted(keep.contiguous(), mix.targets.contiguous())
        place = gather_last(new, targets)
    goal = place if groups is None else gather_last(place, groups)
    shift = goal - gather_last(positions, members)
    plan = MixPlan(members, weights, groups, mix.size, rotary.rotation(shift), targets)

    origin = gather_last(held, members)
    index = torch.zeros_like(members) if groups is None else groups
    blank = origin.new_zeros(batch, rows, mix.size)
    mass = blank.scatter_add(2, index, origin[7])
    ids = summary_id - torch.arange(mix.size, device=blank.device).expand_as(blank)
    if targets is None:
        time = blank.double().scatter_add(2, index, origin[2] * weights.double()).round().long()
        frame = (blank - 1).scatter_reduce(2, index, origin[1], "amax")
        one = torch.ones_like(blank)
        columns = (ids, frame, time, -one, -one, one * int(TokenKind.SUMMARY), blank, mass)
        return plan, place, torch.stack(columns)
    table = table.clone()
    table[0].scatter_(2, targets, ids)
    table[5].scatter_(2, targets, int(TokenKind.SUMMARY))
    table[7].scatter_(2, targets, mass)
    return plan, place, table


def _split(plan: MixPlan, batch: int) -> list[MixPlan]:
    """A folded plan, layer by layer."""
    count = plan.members.shape[0] // batch

    def parts(x: Tensor | None, dim: int = 0) -> Sequence[Any]:
        return [None] * count if x is None else x.split(batch, dim)

    columns = (plan.members, plan.weights, plan.groups, plan.targets)
    return [
        replace(plan, members=m, weights=w, groups=g, targets=t, rotation=replace(plan.rotation, shift=shift))
        for m, w, g, t, shift in zip(
            *(parts(column) for column in columns), parts(plan.rotation.shift, 1), strict=True
        )
    ]


def fold_streams(parts: Sequence[Any], dim: int) -> Tensor:
    """Layers one after another along the streams' axis; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def gather_last(x: Tensor, index: Int[Tensor, "N R K"]) -> Tensor:
    """Entries of ``x [C, N, R, T]`` at ``index [N, R, K]`` along the last axis."""
    return x.gather(-1, index.expand(x.shape[0], -1, -1, -1))
