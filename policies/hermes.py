"""HERMES as published: three tiers, exact probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hermes.config import setting
from hermes.policy import Tier, TieredPolicy, hierarchy


@dataclass
class Hermes(TieredPolicy):
    """Hierarchical memory: sensory (recency), working (blend), long-term (attention and a summary token).

    Source: arXiv 2601.14724, Sec. 3. Differences from the paper: it gives no forgetting rate, so k is the
    release's 20 in the sensory tier and 20 - 12 p in the working tier; attention is that of a true forward of
    the guidance prompts (the release reads their embeddings instead); each layer is compressed when its own
    video tokens exceed its budget.

    >>> Hermes(budget=64).boundaries(10)
    {'sensory': range(0, 1), 'working': range(1, 7), 'long_term': range(7, 10)}
    """

    source: ClassVar[str] = "arXiv 2601.14724"
    needs_attention: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting(hierarchy(), help="sensory, working and long-term memory")
