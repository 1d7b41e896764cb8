"""Selectors: which tokens stay, given scores and a budget per layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.config import Part, setting
from hermes.memory import KVLayer
from hermes.tokens import TokenKind, dense_ranks


@dataclass(frozen=True)
class Selection:
    """One layer to select from: its tokens, their scores ``[B, R, V]``, how many to keep, and its tier."""

    layer: KVLayer
    scores: Float[Tensor, "B R V"]
    budget: int
    tier: str


class _Aside(NamedTuple):
    """What comes before the best-scored tokens: newest tokens and frames, a floor per frame, timestamps."""

    recent: int
    frames: int
    floor: int
    stamps: bool


class Selector(Part, ABC):
    """Chooses the video tokens each layer keeps."""

    kind: ClassVar[str] = "selector"

    @property
    def per_head(self) -> bool:
        """Whether tokens are ranked for each KV head apart."""
        return False

    @abstractmethod
    def select(self, layers: Sequence[Selection]) -> list[Int[Tensor, "B R K"]]:
        """Per layer, the video indices kept (0 = first after the prefix), ``K = min(budget, V)``."""


@dataclass
class TopK(Selector):
    """The best-scored tokens, after those that are set aside.

    Source: arXiv 2601.14724, Sec. 3.1 (rank per layer). Ranking per KV head, once for a tier or once for
    all layers, the floor per frame, the recent window and timestamp coupling are additions.

    A shared ranking averages a token's score over the layers that hold it. Set aside first: tokens marked
    protected and the best frames' timestamps, then the newest ``recent`` tokens (or ``recent_share`` of the
    budget, whichever is more) and the newest ``recent_frames`` frames, as many of them as fit half of the
    budget whole, then each frame's best ``per_frame`` tokens; all of them count against the budget. Other
    timestamps go first.
    """

    rank: Literal["layer", "kv_head", "tier", "all"] = setting("layer", help="where one ranking is made")
    recent: int = setting(0, help="newest tokens always kept", unit="tokens", ge=0)
    recent_share: float = setting(0.0, help="share of the budget for the newest tokens", ge=0, le=1)
    recent_frames: int = setting(0, help="newest frames always kept whole", unit="frames", ge=0)
    per_frame: int = setting(0, help="best tokens of every frame always kept", unit="tokens", ge=0)
    timestamps: float = setting(
        0.25,
        help="share of the budget for the timestamps of the best frames, each kept whole; 0: their tokens "
        "compete like any other",
        ge=0,
        le=1,
    )

    @property
    def per_head(self) -> bool:
        """Whether tokens are ranked for each KV head apart: ``rank`` is ``kv_head``."""
        return self.rank == "kv_head"

    def select(self, layers: Sequence[Selection]) -> list[Int[Tensor, "B R K"]]:
        """Per layer, the best tokens by the ranking of ``rank``."""
        scores = [
            one.scores.mean(1, keepdim=True)
            if one.scores.shape[1] > 1 and not self.per_head and one.layer.rows == 1
            else one.scores
            for one in layers
        ]
        if self.rank in ("tier", "all"):
            scores = self._shared(layers, scores)
        plain: dict[Hashable, list[int]] = {}
        out: dict[int, Tensor] = {}
        for at, (one, score) in enumerate(zip(layers, scores, strict=True)):
            rows = max(score.shape[1], one.layer.rows)
            score = score.expand(-1, rows, -1)
            aside = self._aside(one)
            if one.layer.has_protected or any(aside):
                out[at] = self._best(one, score, aside)
            else:
                plain.setdefault((one.budget, score.shape, score.device), []).append(at)
                scores[at] = score
        for group in plain.values():
            stacked = torch.stack([scores[at] for at in group])
            budget = min(layers[group[0]].budget, stacked.shape[-1])
            out |= dict(zip(group, stacked.topk(budget, dim=-1).indices, strict=True))
        return [out[at] for at in range(len(layers))]

    def _aside(self, one: Selection) -> _Aside:
        budget = min(one.budget, one.scores.shape[-1])
        return _Aside(
            max(self.recent, int(self.recent_share * budget)),
            self.recent_frames,
            self.floor(one.layer.video.frame, budget),
            self.timestamps > 0 and one.layer.has_timestamps,
        )

    def _best(self, one: Selection, scores: Float[Tensor, "B R V"], aside: _Aside) -> Int[Tensor, "B R K"]:
        video = one.layer.video
        length = scores.shape[-1]
        budget = min(one.budget, length)
        order = scores.argsort(dim=-1)
        rank = torch.empty_like(order).scatter_(
            -1, order, torch.arange(length, device=order.device).expand_as(order)
        )
        bonus = video.protected.long().expand_as(rank) * 4
        if aside.recent or aside.frames:
            newest = torch.arange(length, device=rank.device) >= length - aside.recent
            if aside.frames:
                newest = newest | _newest_frames(video.frame, aside.frames, budget // 2)
            bonus = bonus + newest.long() * 2
        if aside.floor:
            bonus = bonus + (_rank_in_frame(scores, video.frame) < aside.floor).long()
        if aside.stamps:
            room = int(self.timestamps * budget)
            stamp = (video.kind == int(TokenKind.TIMESTAMP)).expand_as(rank)
            kept = _best_stamps(scores, video.frame, stamp, room)
            bonus = torch.where(kept, 4, torch.where(stamp, -1, bonus))
        return (rank + bonus * length).topk(budget, dim=-1).indices

    def floor(self, frame: Int[Tensor, "B R V"], budget: int) -> int:
        """Tokens of every frame always kept: ``per_frame``."""
        return self.per_frame

    def _shared(self, layers: Sequence[Selection], scores: list[Tensor]) -> list[Tensor]:
        groups: dict[str, list[int]] = {}
        for at, one in enumerate(layers):
            groups.setdefault(one.tier if self.rank == "tier" else "", []).append(at)
        out = list(scores)
        for members in groups.values():
            rows = max(max(scores[at].shape[1], layers[at].layer.rows) for at in members)
            ids = [layers[at].layer.video.id.expand(-1, rows, -1) for at in members]
            flat = torch.cat(ids, dim=-1)
            values = torch.cat([scores[at].expand(-1, rows, -1) for at in members], dim=-1)
            _, inverse = flat.unique(return_inverse=True)
            count = int(inverse.max()) + 1 if inverse.numel() else 0
            zero = values.new_zeros(*values.shape[:2], count)
            total = zero.scatter_add(-1, inverse, values)
            held = zero.scatter_add(-1, inverse, torch.ones_like(values))
            mean = (total / held.clamp(min=1)).gather(-1, inverse)
            for at, part in zip(members, mean.split([i.shape[-1] for i in ids], dim=-1), strict=True):
                out[at] = part
        return out


@dataclass
class EvenFrames(TopK):
    """The budget spread evenly over the frames held, each giving its best tokens.

    A control. As :class:`TopK` with a floor of ``budget // frames``, or ``per_frame``
    if that is more; what is left over goes to the best of the rest. Where there are more frames than tokens,
    the frames with the best tokens keep one.
    """

    def floor(self, frame: Int[Tensor, "B R V"], budget: int) -> int:
        """An even share of the budget, at least one token."""
        frames = max(len(row.unique()) for row in frame.flatten(0, 1))
        return max(self.per_frame, budget // frames, 1)


def _newest_frames(frame: Int[Tensor, "B R V"], count: int, room: int) -> Tensor:
    """Tokens of the newest ``count`` frames, or of as many of these as have ``room``, whole."""
    numbers, sizes = frame[0, 0].unique(return_counts=True)
    fit = int((sizes.flip(0).cumsum(0) <= room).sum())
    chosen = min(fit, count, len(numbers))
    return frame >= numbers[-chosen] if chosen else torch.zeros_like(frame, dtype=torch.bool)


def with_stamps(scores: Float[Tensor, "B R V"], layer: KVLayer, room: int) -> Float[Tensor, "B R V"]:
    """Scores in which the best frames' timestamps, each whole, come first, and other timestamps last.

    Args:
        scores: of a layer's video tokens.
        layer: the layer.
        room: tokens for timestamps, and for the best token of each of those frames; 0: scores as they are.
    """
    if not (room and layer.has_timestamps):
        return scores
    stamp = (layer.video.kind == int(TokenKind.TIMESTAMP)).expand_as(scores)
    kept = _best_stamps(scores, layer.video.frame, stamp, room)
    first, last = scores.amax(-1, keepdim=True) + 1, scores.amin(-1, keepdim=True) - 1
    return torch.where(kept, first, torch.where(stamp, last, scores))


def _best_stamps(scores: Tensor, frame: Tensor, stamp: Tensor, room: int) -> Tensor:
    """The best frames' timestamps, each whole and with the frame's best token, within ``room`` tokens.

    A frame is as good as its best visual token.
    """
    # As many slots as tokens: the number of frames would have to be asked of the device.
    inverse, blank = dense_ranks(frame).expand_as(scores), torch.zeros_like(scores)
    low = scores.amin(dim=-1, keepdim=True) - 1
    visual = torch.where(stamp, low, scores)
    best = (blank + low).scatter_reduce(-1, inverse, visual, "amax")
    cost = 1 + blank.scatter_add(-1, inverse, stamp.to(blank.dtype))
    cost = torch.where(best == low, room + 1, cost)  # no visual token left
    order = best.argsort(dim=-1, descending=True, stable=True)
    spent = cost.gather(-1, order).cumsum(-1)
    chosen = torch.zeros_like(order).scatter_(-1, order, (spent <= room).long())
    return (stamp | (_rank_in_frame(visual, frame) == 0)) & chosen.gather(-1, inverse).bool()


def _rank_in_frame(scores: Tensor, frame: Tensor) -> Tensor:
    """0 for the best token of each frame, 1 for the next, ..."""
    inverse = dense_ranks(frame).expand_as(scores)
    by_score = scores.argsort(dim=-1, descending=True, stable=True)
    order = by_score.gather(-1, inverse.gather(-1, by_score).argsort(dim=-1, stable=True))
    grouped = inverse.gather(-1, order)
    place = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    start = torch.ones_like(grouped, dtype=torch.bool)
    start[..., 1:] = grouped[..., 1:] != grouped[..., :-1]
    first = torch.where(start, place, torch.zeros_like(place)).cummax(dim=-1).values
    return torch.empty_like(order).scatter_(-1, order, place - first)
