"""ShallowStream: the first layers alone read the stream, and find what all layers read at a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from hermes.attention import Guidance
from hermes.config import setting
from hermes.policy import Bound, Recall, ShallowReading
from hermes.tokens import join_chunks


@dataclass
class ShallowStream(ShallowReading):
    """Read the stream with the first layers, and at a question, with all layers, the frames these point to.

    Source: arXiv 2609.02780. Shallow keys and values and the embeddings of all units (frames) are held. A
    question goes through the shallow layers; each votes for the ``votes`` tokens with the most attention; of
    the ``pool`` units with the most votes ``units`` are chosen, each as far as can be from those before it.
    They, the unit before each and the newest ``recent`` are prefilled anew. Published: 5 of 36 layers of
    Qwen3-VL-8B, 4 of 28 of LLaVA-OneVision-7B, and the other defaults.

    Ours, where the method's details are not known: attention is the mean over heads and the question's
    tokens; the newest units do not vote; the most voted comes first; distance is one minus the cosine of mean
    embeddings. The paper's gate holds a query logit, which is not defined here, against 11.0 or 0.875; ours
    is the least share of the attention to video that the past must have, by default none, so that the past
    is always read. All fits ``budget``, the newest first. The shallow state is not clustered: it grows, at
    the stream's own positions.
    """

    source: ClassVar[str] = "arXiv 2609.02780"
    bound: ClassVar[Bound] = "growing"
    needs_attention: ClassVar[bool] = True

    budget: int = setting(4000, help="tokens that an answer reads", unit="tokens", ge=1)
    depth: float = setting(0.14, help="share of the layers that read the stream, at least one", gt=0, le=1)
    recent: int = setting(6, help="newest frames that an answer reads", unit="frames", ge=1)
    alone: int = setting(2, help="the same where the past is not needed", unit="frames", ge=1)
    votes: int = setting(64, help="tokens that each shallow layer votes for", unit="tokens", ge=1)
    pool: int = setting(32, help="most voted frames that are chosen from", unit="frames", ge=1)
    units: int = setting(8, help="frames chosen", unit="frames", ge=0)
    gate: float = setting(0.0, help="least share of attention for the past to be needed", ge=0, le=1)
    dense: bool = setting(True, help="count positions anew, without gaps")

    def recall(self, call: Recall) -> None:
        """Let all layers read the newest frames, and those of the past that the question points to."""
        count = len(self.pieces)
        past, chosen = max(count - self.recent, 0), list[int]()
        if past and self.units:
            votes, share = self._votes(call, past)
            needed = share >= self.gate
            past = past if needed else max(count - self.alone, 0)
            chosen = self._chosen(votes) if needed else []
        groups = [[at] for at in range(count - 1, past - 1, -1)]
        groups += [[at - 1, at] if at else [at] for at in chosen]
        read, room = set[int](), self.budget
        for group in groups:
            fresh = [at for at in group if at not in read]
            cost = sum(len(self.pieces[at]) for at in fresh)
            if cost <= room:
                read |= set(fresh)
                room -= cost
        if read:
            whole = join_chunks([self.pieces[at] for at in sorted(read)], self.clock, dense=self.dense)
            call.encode(whole.to(call.memory[0].keys.device))

    def _votes(self, call: Recall, past: int) -> tuple[list[int], float]:
        """Votes for each past unit, and the share of the question's attention to video that is on them."""
        shallow, asked = self.shallow(call.memory), Guidance(call.question)
        seen = call.observe.over(shallow).attention({layer.index: (asked,) for layer in shallow})
        sizes = torch.tensor([len(piece) for piece in self.pieces])
        unit = torch.arange(len(sizes)).repeat_interleave(sizes)
        mass = torch.stack([each[0, 0].cpu() for each in seen.values()])  # [P, V]
        old = mass[:, unit < past]
        best = old.topk(min(self.votes, old.shape[1]), dim=-1).indices.flatten()
        share = float((old.sum(-1) / mass.sum(-1)).mean())
        return torch.bincount(unit[best], minlength=past).tolist(), share

    def _chosen(self, votes: Sequence[int]) -> list[int]:
        """The most voted unit, then of the pool the one farthest from all that are chosen."""
        order = sorted(range(len(votes)), key=lambda at: -votes[at])[: self.pool]
        order = [at for at in order if votes[at]]
        means = torch.stack([self.pieces[at].embeds[0].float().mean(0) for at in order])
        unit = F.normalize(means, dim=-1)
        far, taken = (1 - unit @ unit.T).cpu(), [0]
        while len(taken) < min(self.units, len(order)):
            nearest = far[:, taken].amin(1)
            nearest[taken] = -1
            taken.append(int(nearest.argmax()))
        return [order[at] for at in taken]
