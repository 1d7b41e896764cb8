"""The parts a policy is composed of: scorers, smoothers, selectors, mergers, re-indexers."""

from hermes.parts.mergers import Drop, Merger, Summary
from hermes.parts.reindexers import Eager, Lazy, Never, Reindexer
from hermes.parts.scorers import Blend, GuidedAttention, LayerContext, RandomScore, Recency, Scorer
from hermes.parts.selectors import Selection, Selector, TopK
from hermes.parts.smoothers import Chain, Smoother

__all__ = [
    "Blend",
    "Chain",
    "Drop",
    "Eager",
    "GuidedAttention",
    "LayerContext",
    "Lazy",
    "Merger",
    "Never",
    "RandomScore",
    "Recency",
    "Reindexer",
    "Scorer",
    "Selection",
    "Selector",
    "Smoother",
    "Summary",
    "TopK",
]
