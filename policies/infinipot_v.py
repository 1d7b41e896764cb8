"""InfiniPot-V: patches that changed, and large values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hermes.attention import Observer
from hermes.config import setting
from hermes.errors import SettingError
from hermes.memory import KVLayer, KVMemory, LayerUpdate
from hermes.parts import Eager, Reindexer
from hermes.policy import MemoryPolicy


@dataclass
class InfiniPotV(MemoryPolicy):
    """Keep the newest frames, patches unlike them (TaR) and large values (VaN), per KV head.

    Source: arXiv 2506.15745, Sec. 3. Once a layer holds more than ``budget`` tokens it is cut to ``keep`` of
    it: all of the newest frames, the older tokens least like the newest ones at their own patch, up to
    ``alpha`` of what is kept, and the rest by the norm of the value.

    Differences: the patch of a token is known from its provenance, where the authors' code takes an evicted
    memory for a full grid of frames; a patch that the newest frames lack has no TaR; at least one frame
    counts as new; pooling of values, which their scripts leave off, is left out; at a question the memory
    holds ``keep`` to 1 of the budget, as only their offline runs fill it at the end. Positions are dense
    after each eviction (eager), as in the paper's streaming; their code keeps the offline video's.

    Raises:
        SettingError: more new frames than ``alpha`` has room for.
    """

    source: ClassVar[str] = "arXiv 2506.15745"

    budget: int = setting(4000, help="video tokens a layer holds at most, |M|", unit="tokens", ge=1)
    keep: float = setting(0.75, help="share of the budget left by a compression, |C| / |M|", gt=0, le=1)
    alpha: float = setting(0.5, help="share of those for new frames and changed patches", ge=0, le=1)
    recent: float = setting(0.25, help="frames that count as new, of those the budget holds", gt=0, le=1)
    keys: Literal["plain", "rotated"] = setting(
        "plain", help="compared before RoPE (the paper's argument) or as cached (the authors' code)"
    )
    reindex: Reindexer = setting(Eager(), help="when positions become dense again")

    def __post_init__(self) -> None:
        if self.alpha * self.keep < self.recent:
            raise SettingError("recent", self.recent, f"at most alpha * keep, {self.alpha * self.keep:g}")

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Cut every layer to ``keep`` of the budget once it is over it."""
        if memory[0].video_length <= self.budget:
            return {}
        room = max(int(self.keep * self.budget), 1)
        return {layer.index: layer.keeping(self._worth(layer, room).topk(room).indices) for layer in memory}

    def _worth(self, layer: KVLayer, room: int) -> Float[Tensor, "B H V"]:
        value = layer.video_values().float().norm(dim=-1)
        frame = layer.video.frame
        size = int((frame[0, 0] == frame[0, 0, -1]).sum())
        new = max(int(self.recent * (self.budget // size)), 1)
        # New frames are whole in every head, and its last slots.
        count = max(int((frame[0, 0] >= frame[0].unique()[-new:][0]).sum()), size)
        first = torch.zeros_like(value, dtype=torch.bool)
        first[..., value.shape[-1] - count :] = True
        changed = min(max(int(self.alpha * room) - count, 0), value.shape[-1] - count)
        if changed:
            likeness = self._likeness(layer, count)[..., :-count]
            first.scatter_(-1, likeness.topk(changed, largest=False).indices, True)
        # Never evicted before anything else.
        rank = first.float() + 2 * layer.video.protected
        worth: Tensor = value + (value.amax(-1, keepdim=True) + 1) * rank
        return worth

    def _likeness(self, layer: KVLayer, count: int) -> Float[Tensor, "B H V"]:
        """Mean cosine of each key with the last ``count`` tokens' at its patch; above 1 without any."""
        keys = layer.video_keys()
        if self.keys == "plain" and layer.positions is not None:
            keys = layer.rotary.rotate(keys, -layer.positions[..., layer.prefix :])
        keys = F.normalize(keys.float(), dim=-1)
        patch = self._patches(layer).expand(*keys.shape[:2], -1)
        at = patch[..., -count:]
        total = int(patch.max()) + 1
        index = at.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
        blank = keys.new_zeros(*keys.shape[:2], total, keys.shape[-1])
        summed = blank.scatter_add(2, index, keys[:, :, -count:])
        seen = blank[..., 0].scatter_add(2, at, torch.ones_like(at, dtype=keys.dtype)).gather(-1, patch)
        partner = summed.gather(2, patch.unsqueeze(-1).expand_as(keys))
        return torch.where(seen > 0, (keys * partner).sum(-1) / seen.clamp(min=1), 2.0)

    def _patches(self, layer: KVLayer) -> Int[Tensor, "B R V"]:
        """One number per place in a frame; 0 for what has none, as timestamps."""
        row, col = layer.video.row, layer.video.col
        return torch.where(row < 0, 0, 1 + row * (col.max() + 1) + col)
