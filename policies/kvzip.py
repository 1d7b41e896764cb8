"""KVzip: what the decoder looks at as it repeats a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.attention import AttentionView, SecondReading
from hermes.config import setting
from hermes.parts import LayerContext, Scorer, Selector, TopK
from hermes.parts.replay import newest
from hermes.policy import Tier, TieredPolicy


@dataclass
class Reconstruction(Scorer):
    """The largest attention that a token receives as its own chunk is repeated.

    Source: arXiv 2505.23416 (KVzip), Sec. 3.2 and 3.3: after the prompt and the chat template's tail the
    chunk comes again, the softmax is over ``sinks`` tokens of the prefix, the chunk and the repetition, and
    the largest is taken over its queries and the query heads of a KV head.
    """

    prompt: str = setting("\n\nRepeat the previous context exactly.", help="text that asks for the chunk")
    sinks: int = setting(4, help="tokens of the prefix in the softmax", unit="tokens", ge=0)

    @property
    def follows(self) -> bool:
        """The scorer follows the attention of every repetition."""
        return True

    @property
    def second_reading(self) -> SecondReading:
        """The prompt, the template's tail and the chunk."""
        return SecondReading(lead=self.prompt, tail=True)

    def follow(
        self, view: AttentionView, before: Float[Tensor, "B _R T"], per_head: bool
    ) -> Float[Tensor, "B R T"]:
        """The chunk's own tokens get their score, once and for all."""
        sinks, old = min(self.sinks, view.layer.prefix), view.memory.shape[2] - int(newest(view)[0, 0].sum())
        keys = torch.cat((view.memory[:, :, :sinks], view.memory[:, :, old:]), dim=2)
        options = {"scaling": view.scaling, "per_head": per_head, "pool": "max"}
        seen = view.layer.kernels.attention_mass(view.query, keys, view.own, **options)[..., sinks:]
        rows = max(before.shape[1], seen.shape[1])
        return torch.cat((before[..., :old].expand(-1, rows, -1), seen.expand(-1, rows, -1)), dim=-1)

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """The attention of the repetition."""
        return context.followed


@dataclass
class KVzip(TieredPolicy):
    """Repeat each chunk after it was read, and keep, per KV head, the tokens the repetition looked at most.

    Source: arXiv 2505.23416, Sec. 3; defaults as in kvpress. Differences: the paper compresses a text once,
    before any question, and this one a stream after every chunk, whose score stays with its tokens; a chunk
    is repeated as the decoder's input embeddings, as pictures have no tokens; every chunk is asked for by the
    first prompt, where the paper names a later part by the words before it; every head of every layer keeps
    as many tokens, where the paper lets heads and layers share one budget; positions are re-indexed when they
    run out (lazy), where the paper leaves them.
    """

    source: ClassVar[str] = "arXiv 2505.23416"
    needs_attention: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=Reconstruction())}, help="one tier")
    selector: Selector = setting(TopK(rank="kv_head"), help="which tokens stay")
