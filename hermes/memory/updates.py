"""What a policy can ask of a layer: which tokens stay, and which are mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """Weighted mixes of held tokens into ``size`` new ones: summaries, prototypes, merged tokens.

    Source: arXiv 2601.14724, App. F, generalised. Keys are turned to the new token's position before they
    are mixed. Without ``targets`` the new tokens are appended after the largest kept position; with them
    they replace kept slots (absolute indices, which must also be in ``keep``) at those slots' positions.

    Attributes:
        members: slots mixed, int64 ``[B, R, E]``.
        weights: float32 ``[B, R, E]``, summing to 1 within each group.
        groups: which new token each member goes into, ``[B, R, E]``; None for one group.
    """

    members: Int[Tensor, "B R E"]
    weights: Float[Tensor, "B R E"]
    groups: Int[Tensor, "B R E"] | None = None
    size: int = 1
    targets: Int[Tensor, "B R S"] | None = None


@dataclass(frozen=True)
class LayerUpdate:
    """What one layer keeps: slots ``[B, R, K]``, ascending, prefix included; R is 1 or the KV heads."""

    keep: Int[Tensor, "B R K"]
    mix: Mix | None = None


def join_updates(
    parts: Sequence[Mapping[int, LayerUpdate]], groups: Sequence[Sequence[int]]
) -> dict[int, LayerUpdate]:
    """Updates of groups of streams as one of all streams, in their order."""
    order = torch.tensor([index for group in groups for index in group]).argsort()

    def batch(tensors: Sequence[Tensor]) -> Tensor:
        rows = [x.expand(len(group), *x.shape[1:]) for x, group in zip(tensors, groups, strict=True)]
        return torch.cat(rows)[order]

    out = {}
    for layer in parts[0]:
        updates = [part[layer] for part in parts]
        mix = None
        mixes = [update.mix for update in updates if update.mix is not None]
        if mixes:
            groups_of = [one.groups for one in mixes if one.groups is not None]
            targets = [one.targets for one in mixes if one.targets is not None]
            mix = Mix(
                batch([one.members for one in mixes]),
                batch([one.weights for one in mixes]),
                batch(groups_of) if groups_of else None,
                mixes[0].size,
                batch(targets) if targets else None,
            )
        out[layer] = LayerUpdate(batch([update.keep for update in updates]), mix)
    return out
