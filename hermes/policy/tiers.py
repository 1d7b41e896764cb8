"""A policy made of named tiers, each a share of the layers with parts of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import ClassVar, Literal

import torch

from hermes.attention import AttentionProbe, Guidance, Observer
from hermes.config import Settings, setting
from hermes.dialogue import GuidancePrompts
from hermes.errors import SettingError
from hermes.memory import KVMemory, LayerUpdate, keeping
from hermes.parts import (
    AttentionLedger,
    Blend,
    Chain,
    Drop,
    GuidedAttention,
    LayerContext,
    Lazy,
    Merger,
    Recency,
    Reindexer,
    Scorer,
    Selection,
    Selector,
    Smoother,
    Summary,
    TopK,
)
from hermes.policy.policy import MemoryPolicy, StreamContext, wrong_result


@dataclass
class Tier(Settings):
    """A share of the layers and how their tokens are scored and merged (settings ``policy.tiers.NAME.*``).

    Source: arXiv 2601.14724, Sec. 3.1, generalised.
    """

    share: float = setting(help="share of the decoder's layers", ge=0, le=1)
    scorer: Scorer = setting(help="what a token is worth")
    merger: Merger = setting(Drop(), help="what becomes of evicted tokens")
    smoothing: float = setting(0.0, help="weight of the layer above in the smoothed score", ge=0, le=1)
    weight: float = setting(1.0, help="budget weight of each layer, relative to the others'", gt=0)
    full: bool = setting(False, help="keep every token in these layers: an ablation, the memory grows")


def hierarchy(working: Scorer | None = None, long_term: Scorer | None = None) -> dict[str, Tier]:
    """The paper's three tiers: recency, a blend, and attention with a summary token.

    Source: arXiv 2601.14724, Sec. 3.1 and 3.2: 10, 60 and 30 % of the layers, smoothed by 0.1, 0.3 and 0.4.

    Args:
        working: scorer of the working memory; by default :class:`hermes.parts.Blend` as it stands.
        long_term: that of the long-term memory; by default :class:`hermes.parts.GuidedAttention`.

    >>> {name: tier.share for name, tier in hierarchy().items()}
    {'sensory': 0.1, 'working': 0.6, 'long_term': 0.3}
    """
    return {
        "sensory": Tier(share=0.1, scorer=Recency(), smoothing=0.1),
        "working": Tier(share=0.6, scorer=working or Blend(), smoothing=0.3),
        "long_term": Tier(share=0.3, scorer=long_term or GuidedAttention(), merger=Summary(), smoothing=0.4),
    }


@dataclass
class TieredPolicy(MemoryPolicy):
    """Named tiers from shallow to deep, one budget, one selector, smoothing across layers.

    Source: arXiv 2601.14724, Sec. 2 and 3, generalised. ``hermes``, ``hermes_release`` and most others are
    configurations of it.

    With budget weights, layer l holds ``floor(w_l / sum(w) * budget * L)`` video tokens and the last layer
    the rounding residue besides (Table 5).

    Raises:
        SettingError: no tier, or shares that do not sum to 1.
    """

    bound: ClassVar[Literal["bounded", "growing", "unbounded"]] = "bounded"
    stateless: ClassVar[bool] = True

    budget: int = setting(4000, help="video tokens a layer holds, before weights", unit="tokens", ge=1)
    tiers: dict[str, Tier] = setting({}, help="tiers from the first layer to the last; shares sum to 1")
    smoother: Smoother = setting(Chain(), help="how scores are smoothed across layers")
    selector: Selector = setting(TopK(), help="which tokens stay")
    reindex: Reindexer = setting(Lazy(), help="when positions become dense again")
    prompts: GuidancePrompts = setting(GuidancePrompts(), help="pseudo-queries of guided attention")
    trigger: Literal["layer", "first_layer"] = setting(
        "layer",
        help="layer: each layer whose video tokens exceed its budget; first_layer: all layers at once when "
        "the first layer's length, prefix included, exceeds the budget (the release)",
    )
    ledger: AttentionLedger | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        total = sum(tier.share for tier in self.tiers.values())
        if not self.tiers or abs(total - 1) > 1e-6:
            shares = ", ".join(f"{name} {tier.share:g}" for name, tier in self.tiers.items()) or "no tier"
            raise SettingError(
                "tiers",
                shares,
                "shares that sum to 1, so that every layer has a tier",
                f"They sum to {total:g}.",
            )

    def boundaries(self, num_layers: int) -> dict[str, range]:
        """Layers of each tier: a tier ends at ``floor(cumulative share * L)``.

        >>> from hermes.parts import Recency
        >>> policy = TieredPolicy(tiers={"a": Tier(0.1, Recency()), "b": Tier(0.9, Recency())})
        >>> policy.boundaries(28)
        {'a': range(0, 2), 'b': range(2, 28)}
        """
        out, start, share = {}, 0, 0.0
        for name, tier in self.tiers.items():
            share += tier.share
            stop = min(math.floor(share * num_layers + 1e-9), num_layers)
            out[name] = range(start, stop)
            start = stop
        return out

    @property
    def room(self) -> int:
        """Tokens of the budget that the tiers may hold; all of them by default."""
        return self.budget

    def budgets(self, num_layers: int) -> list[int]:
        """Video tokens per layer (arXiv 2601.14724, Table 5); those of full tiers have no part in it."""
        tiers = [self.tiers[name] for name in self._names(num_layers)]
        weights = [tier.weight for tier in tiers if not tier.full]
        if len(set(weights)) <= 1:
            return [self.room] * num_layers
        total = self.room * len(weights)
        shares = [math.floor(weight / sum(weights) * total + 1e-9) for weight in weights]
        shares[-1] += total - sum(shares)
        given = iter(shares)
        return [self.room if tier.full else next(given) for tier in tiers]

    def _names(self, num_layers: int) -> list[str]:
        return [name for name, layers in self.boundaries(num_layers).items() for _ in layers]

    def start(self, context: StreamContext) -> None:
        """Begin a stream.

        Raises:
            SettingError: a budget that leaves some layer nothing besides its summaries.
        """
        super().start(context)
        names, budgets = self._names(context.num_layers), self.budgets(context.num_layers)
        slots = [self.tiers[name].merger.slots for name in names]
        if any(budget <= own for budget, own in zip(budgets, slots, strict=True)):
            raise SettingError(
                "policy.budget",
                self.budget,
                "enough tokens for every layer to keep one besides its summaries",
            )
        scorers = {index: self.tiers[name].scorer for index, name in enumerate(names)}
        follow = {index: scorer for index, scorer in scorers.items() if scorer.follows}
        self.ledger = AttentionLedger(follow, self.selector.per_head) if follow else None

    def watch(self) -> AttentionProbe | None:
        """For scorers that follow the chunks' attention, if there are any."""
        return self.ledger if self.ledger and self.ledger.watches else None

    @property
    def reads_again(self) -> bool:
        """Whether a scorer wants a second reading."""
        return any(tier.scorer.second_reading is not None for tier in self.tiers.values())

    @property
    def resident_bytes(self) -> int:
        """Bytes of what scorers have seen of the chunks' attention."""
        return sum(tensor.nbytes for tensor in self.ledger.state().values()) if self.ledger else 0

    def state(self) -> Mapping[str, torch.Tensor]:
        """What scorers have seen of the chunks' attention."""
        return self.ledger.state() if self.ledger else {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Give scorers back what they had seen."""
        if self.ledger:
            self.ledger.restore(state)

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Score, select and merge in every layer that is over its budget."""
        count = len(memory.managed)
        names, budgets = self._names(count), self.budgets(count)
        if self.trigger == "first_layer":
            active = [memory.lengths[0] > self.room] * count
        else:
            active = [layer.video_length > budget for layer, budget in zip(memory, budgets, strict=True)]
        active = [on and not self.tiers[name].full for on, name in zip(active, names, strict=True)]
        if self.ledger:
            self.ledger.read_again(observe, evicting=any(active))
        if not any(active):
            return {}
        scores = self.score(memory, observe, active)
        chosen = [index for index in range(count) if active[index]]
        selections = []
        for index in chosen:
            score, tier = scores[index], self.tiers[names[index]]
            if score is not None:
                budget = budgets[index] - tier.merger.slots
                selections.append(Selection(memory.managed[index], score, budget, names[index]))
        kept = self.selector.select(selections)
        updates = {}
        for index, update in zip(chosen, keeping([memory[index] for index in chosen], kept), strict=True):
            layer, merger = memory[index], self.tiers[names[index]].merger
            if merger.slots and update.keep.shape[-1] < layer.length:
                mix = merger.merge(layer, _complement(update.keep, layer.length))
                update = replace(update, mix=mix)
            updates[index] = update
            if self.ledger:
                self.ledger.evict(layer, update)
        return updates

    def score(self, memory: KVMemory, observe: Observer, wanted: Sequence[bool]) -> list[torch.Tensor | None]:
        """Smoothed scores ``[B, R, V]`` of the wanted layers; attention is observed once for all of them."""
        count = len(memory.managed)
        tier_of = {
            index: (name, layers) for name, layers in self.boundaries(count).items() for index in layers
        }
        weights = [self.tiers[tier_of[index][0]].smoothing for index in range(count)]
        needed = self.smoother.needs(wanted, weights)
        last = self.context.last_round
        contexts: dict[int, LayerContext] = {}
        for index in range(count):
            if needed[index]:
                layers = tier_of[index][1]
                contexts[index] = LayerContext(
                    memory.managed[index],
                    (index - layers.start) / len(layers),
                    self.selector.per_head,
                    lambda kind: self.prompts.render(kind, last),
                    self.context.generator,
                )
        scorers = {index: self.tiers[tier_of[index][0]].scorer for index in contexts}
        requests = {index: scorers[index].queries(context) for index, context in contexts.items()}
        seen = observe.attention({index: queries for index, queries in requests.items() if queries})
        stacked = self._blended(contexts, seen, weights)
        if stacked is not None:
            return stacked
        raw: list[torch.Tensor | None] = [None] * count
        for index, context in contexts.items():
            attention = {guidance: seen[index, guidance] for guidance in requests[index]}
            context = replace(context, attention=attention)
            if self.ledger and scorers[index].follows:
                context = replace(context, followed=self.ledger.of(context.layer))
            score = scorers[index].score(context)
            if not isinstance(score, torch.Tensor) or score.ndim != 3 or score.shape[-1] != context.length:
                shape = f"a tensor [B, R, V], a number for each of {context.length} tokens"
                raise wrong_result(scorers[index], "score", score, shape)
            raw[index] = score
        return self.smoother.smooth(raw, weights, memory.managed)

    def _blended(
        self,
        contexts: Mapping[int, LayerContext],
        seen: Mapping[tuple[int, Guidance], torch.Tensor],
        weights: Sequence[float],
    ) -> list[torch.Tensor | None] | None:
        """Smoothed scores with one operation for all layers; None where parts or layers differ in kind."""
        first, last = min(contexts), max(contexts)
        layers = [context.layer for context in contexts.values()]
        alike = len({(layer.video_length, layer.rows, layer.keys.device) for layer in layers}) == 1
        if type(self.smoother) is not Chain or not alike or len(layers) != last - first + 1:
            return None
        blends = [
            self.tiers[name].scorer.blending(contexts[index])
            for index, name in enumerate(self._names(len(weights)))
            if index in contexts
        ]
        found = {
            index: seen[index, blend.guidance]
            for index, blend in enumerate(blends, start=first)
            if blend is not None and blend.guidance is not None
        }
        if None in blends or not found:
            return None
        known = [blend for blend in blends if blend is not None]
        layer, blank = layers[0], torch.zeros_like(next(iter(found.values())))
        attention = torch.stack([found.get(first + at, blank) for at in range(len(known))])
        numbers = (
            tuple(blend.weight for blend in known),
            tuple(blend.rate for blend in known),
            tuple(weights[first : last + 1]),
        )
        partner = self.smoother.partners(layers)
        scores = layer.kernels.blended_scores(
            attention,
            *_numbers(numbers, attention.device),
            partner=None if partner is None else partner.expand_as(attention),
            recursive=self.smoother.recursive,
        )
        out: list[torch.Tensor | None] = [None] * len(weights)
        out[first : last + 1] = scores.unbind()
        return out


@cache
def _numbers(rows: tuple[tuple[float, ...], ...], device: torch.device) -> torch.Tensor:
    """Numbers on a device, copied once (a copy at each step would wait for it) and for good (CUDA graphs)."""
    return torch.tensor(rows, dtype=torch.float64, device=device)


def _complement(keep: torch.Tensor, length: int) -> torch.Tensor:
    """The slots of ``0 .. length - 1`` that are not in ``keep [B, R, K]``, ascending."""
    gone = torch.ones(*keep.shape[:2], length, dtype=torch.bool, device=keep.device).scatter_(-1, keep, False)
    # Every row drops as many, so a stable sort puts the dropped slots last, in order, with no host copy.
    return gone.to(torch.uint8).argsort(dim=-1, stable=True)[..., keep.shape[-1] :]
