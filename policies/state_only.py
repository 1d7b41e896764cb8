"""Evict everything: what a decoder's own windows and states know without a memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from hermes.attention import Observer
from hermes.config import setting
from hermes.memory import KVMemory, LayerUpdate
from hermes.parts import Never, Reindexer
from hermes.policy import MemoryPolicy


@dataclass
class StateOnly(MemoryPolicy):
    """Every token but the prefix goes after each chunk; windows and recurrent states stay.

    A control, this project's: what a policy reaches beyond it on a decoder of several kinds of layers, it
    reaches by the tokens that it keeps. On a decoder of full attention alone nothing but the prefix is left,
    and it says so.
    """

    stateless: ClassVar[bool] = True

    budget: int = setting(4000, help="not used: every token is evicted", unit="tokens", ge=1)
    reindex: Reindexer = setting(Never(), help="when positions become dense again")

    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """Keep the prefix; the newest token where there is none, as no layer may be empty."""
        if not memory.states:
            warnings.warn(
                "state_only on a decoder without windows or recurrent states: nothing but the prefix is left",
                stacklevel=2,
            )
        least = 0 if memory.prefix else 1
        if max(memory.lengths) <= max(memory.prefix, least):
            return {}
        updates = {}
        for layer in memory:
            held = layer.video_length
            updates[layer.index] = layer.keeping(torch.arange(held - least, held))
        return updates
