"""Attention over the memory, what a probe sees of it, and what a policy may ask about it."""

from typing import TYPE_CHECKING

from hermes.attention.guidance import Guidance, Mode, Observer, SecondReading
from hermes.attention.lending import Lender, lending
from hermes.attention.memory_attention import (
    NAME,
    AttentionScope,
    StopForwardError,
    attention_set,
    causal_bias,
    folded_sdpa,
    memory_attention,
    memory_attention_set,
    reading,
    rotate_query,
)
from hermes.attention.probe import AttentionMass, AttentionProbe, together
from hermes.attention.view import AttentionView
from hermes.forwarding import former_names

__all__ = [
    "NAME",
    "AttentionMass",
    "AttentionProbe",
    "AttentionScope",
    "AttentionView",
    "Guidance",
    "Lender",
    "Mode",
    "Observer",
    "SecondReading",
    "StopForwardError",
    "attention_set",
    "causal_bias",
    "folded_sdpa",
    "lending",
    "memory_attention",
    "memory_attention_set",
    "reading",
    "rotate_query",
    "together",
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)
