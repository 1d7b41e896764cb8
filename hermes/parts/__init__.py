"""The parts a policy is composed of: scorers, smoothers, selectors, mergers, re-indexers."""

from hermes.parts.buckets import Buckets, bucketed
from hermes.parts.mergers import Drop, Merger, Summary
from hermes.parts.norms import KeyNorm, ValueNorm
from hermes.parts.received_attention import AttentionLedger, AttentionSum, WindowAttention
from hermes.parts.reindexers import Eager, Lazy, Never, Reindexer
from hermes.parts.replay import Replay
from hermes.parts.scorers import (
    Blend,
    FusedBlend,
    GuidedAttention,
    LayerContext,
    RandomScore,
    Recency,
    Scorer,
)
from hermes.parts.selectors import EvenFrames, Selection, Selector, TopK
from hermes.parts.smoothers import Chain, Smoother

__all__ = [
    "AttentionLedger",
    "AttentionSum",
    "Blend",
    "Buckets",
    "Chain",
    "Drop",
    "Eager",
    "EvenFrames",
    "FusedBlend",
    "GuidedAttention",
    "KeyNorm",
    "LayerContext",
    "Lazy",
    "Merger",
    "Never",
    "RandomScore",
    "Recency",
    "Reindexer",
    "Replay",
    "Scorer",
    "Selection",
    "Selector",
    "Smoother",
    "Summary",
    "TopK",
    "ValueNorm",
    "WindowAttention",
    "bucketed",
]
