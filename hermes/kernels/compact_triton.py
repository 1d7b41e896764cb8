"""Compaction of one layer in one pass; the reference is :func:`hermes.kernels.compact_layer`.

One launch does all of it, over programs of two kinds:

- *keep*: ``BLOCK`` slots of one KV head. Indices are loaded, keys and values gathered, keys rotated by
  ``shift[axis[c]] * frequencies[c]`` (angles made in registers: nothing of size ``[T, D/2]`` is stored), both
  written.
- *mix*: one slice of the members of one mixed token. ``sum_e w_e Rot(angle_e) k_e`` and ``sum_e w_e v_e`` in
  float32, into a partial sum. A fixed number of slices, added in a fixed order: the result is deterministic.

Bytes moved: each kept key and value is read and written once, each evicted one read once.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from hermes.kernels.compact import MixPlan
from hermes.kernels.rotate import Rotation

BLOCK = 32
# Members of one mixed token are summed in slices of this many, at most SLICES of them.
SLICE, SLICES = 256, 16


# fmt: off
@triton.jit
@no_type_check
def _angles(
    shift, frequencies, axis, row, t, count, plane, valid, c, HALF: tl.constexpr, ONE: tl.constexpr,
):
    """Cosine and sine ``[BLOCK, WIDTH]`` of ``shift [A, rows, count]`` at ``t`` of ``row``."""
    frequency = tl.load(frequencies + c, mask=c < HALF, other=0.0)
    at = shift + row * count + t
    if ONE:
        angle = tl.load(at, mask=valid, other=0.0)[:, None] * frequency[None, :]
    else:
        which = tl.load(axis + c, mask=c < HALF, other=0)
        inside = valid[:, None] & (c < HALF)[None, :]
        angle = tl.load(at[:, None] + which[None, :] * plane, mask=inside, other=0.0) * frequency[None, :]
    return tl.cos(angle), tl.sin(angle)


@triton.jit
@no_type_check
def _keep(
    source, values, keep, shift, frequencies, axis, out_keys, out_values, row, to, t, K, plane, st, vt,
    HALF: tl.constexpr, WIDTH: tl.constexpr, KEEP: tl.constexpr, TURN: tl.constexpr, ONE: tl.constexpr,
):
    """Gather, rotate and write one block of kept slots ``t``."""
    c = tl.arange(0, WIDTH)
    valid = t < K
    inside = valid[:, None] & (c < HALF)[None, :]
    slot = t
    if KEEP:
        slot = tl.load(keep + row * K + t, mask=valid, other=0)
    to = (to + t)[:, None] * (2 * HALF) + c[None, :]
    at = source + slot[:, None] * st + c[None, :]
    first, second = tl.load(at, mask=inside), tl.load(at + HALF, mask=inside)
    if TURN:
        cos, sin = _angles(shift, frequencies, axis, row, t, K, plane, valid, c, HALF, ONE)
        x, y = first.to(tl.float32), second.to(tl.float32)
        first = (x * cos - y * sin).to(first.dtype)
        second = (y * cos + x * sin).to(second.dtype)
    tl.store(out_keys + to, first, mask=inside)
    tl.store(out_keys + to + HALF, second, mask=inside)
    at = values + slot[:, None] * vt + c[None, :]
    tl.store(out_values + to, tl.load(at, mask=inside), mask=inside)
    tl.store(out_values + to + HALF, tl.load(at + HALF, mask=inside), mask=inside)


@triton.jit
@no_type_check
def _mix(
    keys, values, members, weights, groups, shift, frequencies, axis, to, row, begin, stop, goal, E,
    plane, kt, vt, values_at, HALF: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr,
    ONE: tl.constexpr, BLOCK: tl.constexpr,
):
    """Weighted sums over the members ``begin .. stop - 1`` of one mixed token."""
    c = tl.arange(0, WIDTH)
    k1 = tl.zeros([WIDTH], tl.float32)
    k2 = tl.zeros([WIDTH], tl.float32)
    v1 = tl.zeros([WIDTH], tl.float32)
    v2 = tl.zeros([WIDTH], tl.float32)
    for start in range(begin, stop, BLOCK):
        e = (start + tl.arange(0, BLOCK)).to(tl.int64)
        valid = e < stop
        if GROUPS:
            valid = valid & (tl.load(groups + row * E + e, mask=valid, other=-1) == goal)
        inside = valid[:, None] & (c < HALF)[None, :]
        slot = tl.load(members + row * E + e, mask=valid, other=0)
        weight = tl.load(weights + row * E + e, mask=valid, other=0.0)[:, None]
        cos, sin = _angles(shift, frequencies, axis, row, e, E, plane, valid, c, HALF, ONE)
        at = keys + slot[:, None] * kt + c[None, :]
        x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        y = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
        k1 += tl.sum(weight * (x * cos - y * sin), axis=0)
        k2 += tl.sum(weight * (y * cos + x * sin), axis=0)
        at = values + slot[:, None] * vt + c[None, :]
        v1 += tl.sum(weight * tl.load(at, mask=inside, other=0.0).to(tl.float32), axis=0)
        v2 += tl.sum(weight * tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32), axis=0)
    tl.store(to + c, k1, mask=c < HALF)
    tl.store(to + HALF + c, k2, mask=c < HALF)
    tl.store(to + values_at + c, v1, mask=c < HALF)
    tl.store(to + values_at + HALF + c, v2, mask=c < HALF)


@triton.jit
@no_type_check
def _compact(
    keys, values, source, keep, shift, members, weights, groups, member_shift, frequencies, axis,
    out_keys, out_values, partial, H, K, STRIDE, E, SIZE, BLOCKS, SPAN, plane, member_plane, kb, kh, kt,
    vb, vh, vt, sb, sh, st, HALF: tl.constexpr, WIDTH: tl.constexpr, PER_HEAD: tl.constexpr,
    KEEP: tl.constexpr, TURN: tl.constexpr, MIX: tl.constexpr, GROUPS: tl.constexpr, ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    lane, lanes = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    b, h = lane // H, lane % H
    row = b
    if PER_HEAD:
        row = lane
    keys += b * kb + h * kh
    values += b * vb + h * vh
    source += b * sb + h * sh
    pid = tl.program_id(1)
    if pid < BLOCKS:
        t = (pid * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
        _keep(
            source, values, keep, shift, frequencies, axis, out_keys, out_values, row, lane * STRIDE, t, K,
            plane, st, vt, HALF, WIDTH, KEEP, TURN, ONE,
        )
    elif MIX:
        part, goal = (pid - BLOCKS) // SIZE, (pid - BLOCKS) % SIZE
        # partial [parts, 2, B * H, SIZE, D]
        to = partial + ((part * 2 * lanes + lane) * SIZE + goal) * (2 * HALF)
        _mix(
            keys, values, members, weights, groups, member_shift, frequencies, axis, to, row, part * SPAN,
            min((part + 1) * SPAN, E), goal, E, member_plane, kt, vt, lanes * SIZE * (2 * HALF), HALF, WIDTH,
            GROUPS, ONE, BLOCK,
        )
# fmt: on


def compact_layer(
    keys: Tensor,
    values: Tensor,
    keep: Tensor | None,
    rotation: Rotation | None,
    mix: MixPlan | None,
    source: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Keys and values of one layer after eviction, in one launch.

    Source: arXiv 2601.14724, Eq. 6, Sec. 3.3, App. E and F. Arguments and results as the reference's.
    """
    if keep is None and rotation is None and mix is None:
        return keys, values
    batch, heads, held, dim = keys.shape
    rotated = keys if rotation is None or source is None else source
    keys, values, rotated = (x if x.stride(-1) == 1 else x.contiguous() for x in (keys, values, rotated))
    kept = held if keep is None else keep.shape[-1]
    appended = mix.size if mix is not None and mix.targets is None else 0
    new_keys = torch.empty(batch, heads, kept + appended, dim, dtype=keys.dtype, device=keys.device)
    new_values = torch.empty_like(new_keys, dtype=values.dtype)

    shift, member_list = None if rotation is None else rotation.shift, None if mix is None else mix.members
    rows = max(x.shape[-2] for x in (keep, shift, member_list) if x is not None)
    empty = keys.new_empty(0)

    def full(x: Tensor | None, *lead: int) -> Tensor:
        return empty if x is None else x.expand(*lead, batch, rows, -1).contiguous()

    members = full(member_list)
    count = 0 if mix is None else mix.members.shape[-1]
    size = 0 if mix is None else mix.size
    grouped = mix is not None and mix.groups is not None
    parts = 0 if mix is None else 1 if grouped else max(1, min(SLICES, triton.cdiv(count, SLICE)))
    partial = torch.empty(parts, 2, batch, heads, size, dim, dtype=torch.float32, device=keys.device)
    blocks = triton.cdiv(kept, BLOCK)
    any_rotation = rotation if rotation is not None else None if mix is None else mix.rotation
    axes = 1 if any_rotation is None else any_rotation.shift.shape[0]
    grid: Any = (batch * heads, blocks + size * parts)
    if grid[0] * grid[1] > 0:
        _compact[grid](
            keys,
            values,
            rotated,
            full(keep),
            empty if rotation is None else full(rotation.shift.float(), axes),
            members,
            full(None if mix is None else mix.weights),
            full(None if mix is None else mix.groups),
            empty if mix is None else full(mix.rotation.shift.float(), axes),
            empty if any_rotation is None else any_rotation.frequencies.to(keys.device),
            empty if any_rotation is None else any_rotation.axis.to(keys.device),
            new_keys,
            new_values,
            partial,
            heads,
            kept,
            kept + appended,
            count,
            max(size, 1),
            blocks,
            triton.cdiv(count, parts) if parts else 0,
            batch * rows * kept,
            batch * rows * count,
            *keys.stride()[:3],
            *values.stride()[:3],
            *rotated.stride()[:3],
            HALF=dim // 2,
            WIDTH=triton.next_power_of_2(dim // 2),
            PER_HEAD=rows > 1,
            KEEP=keep is not None,
            TURN=rotation is not None,
            MIX=mix is not None,
            GROUPS=grouped,
            ONE=axes == 1,
            BLOCK=BLOCK,
        )
    if mix is None:
        return new_keys, new_values
    mixed = partial.sum(0)
    if mix.targets is None:
        new_keys[:, :, kept:], new_values[:, :, kept:] = mixed[0], mixed[1]
        return new_keys, new_values
    slots = mix.targets.expand(batch, heads, -1).unsqueeze(-1).expand(-1, -1, -1, dim)
    new_keys.scatter_(2, slots, mixed[0].to(keys.dtype))
    return new_keys, new_values.scatter_(2, slots, mixed[1].to(values.dtype))
