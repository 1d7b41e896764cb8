"""Compaction of one layer: gather kept tokens, re-rotate their keys, mix evicted tokens into summaries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.kernels.rotate import Rotation, rotate


@dataclass(frozen=True)
class MixPlan:
    """Weighted mixes of held tokens: for each row, ``E`` members in ``groups`` (0 .. S-1).

    Source: arXiv 2601.14724, Eq. 6 and App. F, generalised.

    ``rotation`` takes each member's key to the position of the token it goes into; weights sum to 1 a group.
    ``targets`` are the slots, among the kept ones, that the mixes replace; without them they are appended.
    """

    members: Int[Tensor, "B R E"]
    weights: Float[Tensor, "B R E"]
    groups: Int[Tensor, "B R E"] | None
    size: int
    rotation: Rotation
    targets: Int[Tensor, "B R S"] | None = None


def gather(x: Float[Tensor, "B H T D"], index: Int[Tensor, "#B R K"]) -> Float[Tensor, "B H K D"]:
    """Tokens of ``x`` at ``index``, one index row for all heads (R = 1) or one per head (R = H).

    Source: arXiv 2601.14724, Eq. 6 and App. F, generalised.

    One row for all streams besides (B = 1) is an index_select, several times as fast as a gather.
    """
    if index.shape[:2] == (1, 1):
        return x.index_select(2, index[0, 0])
    index = index.expand(x.shape[0], x.shape[1], -1)
    return x.gather(2, index.unsqueeze(-1).expand(*index.shape, x.shape[-1]))


def _mix(x: Float[Tensor, "B H E D"], plan: MixPlan) -> Float[Tensor, "B H S D"]:
    weighted = x.float() * plan.weights.unsqueeze(-1)
    if plan.groups is None:
        return weighted.sum(2, keepdim=True)
    out = weighted.new_zeros(*x.shape[:2], plan.size, x.shape[-1])
    groups = plan.groups.expand(x.shape[0], x.shape[1], -1)
    return out.scatter_add_(2, groups.unsqueeze(-1).expand_as(weighted), weighted)


def compact_layer(
    keys: Float[Tensor, "B H T D"],
    values: Float[Tensor, "B H T D"],
    keep: Int[Tensor, "#B R K"] | None,
    rotation: Rotation | None,
    mix: MixPlan | None,
    source: Float[Tensor, "B H T D"] | None = None,
) -> tuple[Tensor, Tensor]:
    """Keys and values of one layer after eviction.

    Source: arXiv 2601.14724, Eq. 6, Sec. 3.3, App. E and F.

    ``keys'[j] = Rot(turn_j) keys[keep_j]``, ``values'[j] = values[keep_j]``; summary ``s`` has key
    ``sum_e w_e Rot(angle_e) keys[member_e]`` and value ``sum_e w_e values[member_e]``. Float32 inside.

    Args:
        keep: slots kept, ascending; None keeps all.
        rotation: position change of each kept key; None leaves keys as they are, bit for bit.
        mix: evicted tokens to mix; None drops them.
        source: the keys that ``rotation`` applies to, where they are not ``keys`` (keys as first written).

    >>> k = torch.arange(4.0).view(1, 1, 2, 2)
    >>> compact_layer(k, k, torch.tensor([[[1]]]), None, None)[0]
    tensor([[[[2., 3.]]]])
    """
    rotated = keys if rotation is None or source is None else source
    new_keys = rotated if keep is None else gather(rotated, keep)
    new_values = values if keep is None else gather(values, keep)
    if rotation is not None:
        new_keys = rotate(new_keys, *rotation.angles())
    if mix is None:
        return new_keys, new_values
    key = _mix(rotate(gather(keys, mix.members).float(), *mix.rotation.angles()), mix).to(keys.dtype)
    value = _mix(gather(values, mix.members), mix).to(values.dtype)
    if mix.targets is None:
        return torch.cat((new_keys, key), dim=2), torch.cat((new_values, value), dim=2)
    slots = mix.targets.expand(*keys.shape[:2], -1).unsqueeze(-1).expand_as(key)
    return new_keys.scatter(2, slots, key), new_values.scatter(2, slots, value)
