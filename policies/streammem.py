"""StreamMem: what the chat template's tail attends to, and one prototype a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hermes.attention import Guidance, Observer
from hermes.config import setting
from hermes.memory import KVLayer, KVMemory, LayerUpdate, Mix
from hermes.parts import Lazy, Reindexer
from hermes.policy import MemoryPolicy
from hermes.tokens import Chunk, Provenance, TokenKind


@dataclass
class StreamMem(MemoryPolicy):
    """Keep the tokens that the end of any question attends to, and merge each new frame into a prototype.

    Source: arXiv 2508.15717, Sec. 3 (no code was released). Frames alike are averaged before the decoder;
    proxy queries, the chat template's tail, run over old memory and new clip; each layer keeps the tokens
    they attend to most (softmax over video tokens alone) and, for each new frame, the mean of all its tokens
    weighted by that attention, which is an ordinary token afterwards. The paper's clip is
    ``stream.chunk_frames=8``; its budget is of all layers, ours of each.

    The paper leaves open, and settings decide: how attention is pooled over heads and proxy tokens
    (``aggregate``, ``per_head``), what the frame filter compares (``compare``; here a frame with the mean of
    those merged so far, in one clip), where a prototype sits (``place``: it takes that token's slot, keys
    turned there first) and for how long (``lifetime``). Differences: at most half of the budget is
    prototypes, of the newest frames; positions are re-indexed when they run out (lazy), where the paper
    extends the decoder's range by YaRN.
    """

    source: ClassVar[str] = "arXiv 2508.15717"
    needs_attention: ClassVar[bool] = True
    # Which frames are averaged is a stream's own.
    lockstep: ClassVar[bool] = False

    budget: int = setting(4000, help="video tokens a layer holds, prototypes included", unit="tokens", ge=2)
    proxy: str | None = setting(None, help="text that asks; null: the chat template's tail")
    aggregate: Literal["mean", "max"] = setting("mean", help="over heads and proxy tokens")
    per_head: bool = setting(False, help="each KV head keeps tokens of its own")
    merge: Literal["weighted", "mean", "none"] = setting("weighted", help="how a prototype is made")
    place: Literal["last", "middle"] = setting("last", help="token of the frame whose place it takes")
    lifetime: Literal["ordinary", "first"] = setting(
        "ordinary", help="old prototypes compete like any token, or stay as long as anything does"
    )
    delta: float = setting(0.95, help="frames more alike than this are averaged; 1: none are", ge=-1, le=1)
    compare: Literal["frame", "patch"] = setting("frame", help="cosine of frame means, or mean over patches")
    reindex: Reindexer = setting(Lazy(), help="when positions become dense again")

    def reduce(self, chunk: Chunk) -> Chunk:
        """Average each frame into its predecessor where the two are alike."""
        frames = chunk.tokens.frame.unique_consecutive().tolist()
        if self.delta >= 1 or len(frames) < 2:
            return chunk
        features = [chunk.embeds.clone(), *(level.clone() for level in chunk.deepstack)]
        table, kept, into, count = chunk.tokens.table.clone(), [], torch.empty(0, dtype=torch.int64), 0
        for number in frames:
            own = chunk.tokens.frame == number
            slots = (own & (chunk.tokens.kind == int(TokenKind.VISUAL))).nonzero().flatten()
            same = len(slots) == len(into) and self._alike(features[0][:, into], features[0][:, slots])
            if same:
                count += 1
                for feature in features:
                    feature[:, into] += (feature[:, slots] - feature[:, into]) / count
                table[7, into] += table[7, slots]
            else:
                into, count = slots, 1
                kept.append(own.nonzero().flatten())
        merged = replace(chunk, embeds=features[0], deepstack=tuple(features[1:]), tokens=Provenance(table))
        return merged.select(torch.cat(kept).to(chunk.embeds.device))

    def _alike(self, one: Tensor, other: Tensor) -> bool:
        """Whether two frames ``[1, n, hidden]`` are."""
        if self.compare == "frame":
            one, other = one.float().mean(1, keepdim=True), other.float().mean(1, keepdim=True)
        likeness = F.cosine_similarity(one.float(), other.float(), dim=-1).mean(1)
        return bool(likeness > self.delta)

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Score by the proxy's attention, keep the best and one prototype for each new frame."""
        over = [layer for layer in memory if layer.video_length > self.budget]
        tail = self.proxy is None
        text = self.context.template_tail if self.proxy is None else self.proxy
        guidance = Guidance(text, per_head=self.per_head, among="video", pool=self.aggregate, control=tail)
        seen = observe.attention({layer.index: (guidance,) for layer in over}) if over else {}
        return {layer.index: self._update(layer, seen[layer.index, guidance]) for layer in over}

    def _update(self, layer: KVLayer, mass: Tensor) -> LayerUpdate:
        summary, visual = (layer.video.kind == int(kind) for kind in (TokenKind.SUMMARY, TokenKind.VISUAL))
        frame = layer.video.frame[0, 0]
        # New frames are those after the last prototype's, and whole in every head and stream.
        after = int(torch.where(summary[0, 0], frame, -1).max())
        new = frame[visual[0, 0] & (frame > after)].unique()[-(self.budget // 2) :]
        rank = mass + 2 * (summary & (self.lifetime == "first")) + 4 * layer.video.protected
        if self.merge == "none" or not len(new):
            return layer.keeping(rank.topk(self.budget, dim=-1).indices)
        members = (visual[0, 0] & torch.isin(frame, new)).nonzero().flatten()
        group = torch.searchsorted(new, frame[members])
        each = members.new_zeros(len(new)).index_add(0, group, torch.ones_like(group))
        end = each.cumsum(0)
        targets = members[end - 1 if self.place == "last" else end - 1 - each // 2]
        rank[..., targets] += 8
        shape = (*mass.shape[:2], -1)
        weights = mass[..., members] if self.merge == "weighted" else torch.ones_like(mass[..., members])
        weights = weights.clamp(min=1e-12)  # attention may round to 0 all over a frame
        total = weights.new_zeros(*mass.shape[:2], len(new)).index_add(-1, group, weights)
        mix = Mix(
            (members + layer.prefix).expand(shape),
            weights / total[..., group],
            group.expand(shape),
            len(new),
            (targets + layer.prefix).expand(shape),
        )
        return layer.keeping(rank.topk(self.budget, dim=-1).indices, mix)
