"""HERMES as released: the published numbers' code path, to the digit."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

from hermes.config import setting
from hermes.parts import Blend, Chain, GuidedAttention, Lazy, Recency, Reindexer, Selector, Smoother, TopK
from hermes.policy import StreamContext, Tier, TieredPolicy, hierarchy

logger = logging.getLogger(__name__)

Schedule = Literal["llava", "qwen"]
# Blend weight, its fall, and the fall of the forgetting rate over the working tier.
_WORKING = {"llava": (1.0, 0.9, 19.5), "qwen": (0.75, 0.6, 12.0)}


def release_tiers(
    schedule: Schedule, probe: Literal["exact", "embedding"] = "embedding", half: bool = False
) -> dict[str, Tier]:
    """The release's tiers for one of its two schedules.

    Source: the authors' release (May 2026) as described for arXiv 2601.14724.
    """
    weight, drop, k_drop = _WORKING[schedule]
    mixed = GuidedAttention(prompt="mixed", probe=probe, half=half)
    working = Blend(mixed, Recency(k_drop=k_drop), weight, drop)
    long_term = GuidedAttention(prompt="global", probe=probe, half=half)
    return hierarchy(working, long_term)


@dataclass
class HermesRelease(TieredPolicy):
    """The official release's behaviour.

    Source: the authors' release (May 2026) as described for arXiv 2601.14724. Differences from the paper:
    scores come from the prompts' input embeddings, smoothing is recursive, all layers compress when the first
    layer's length, prefix included, exceeds the budget, and LLaVA has a schedule of its own. For Qwen2.5-VL
    the release also takes the softmax in float16 (``hermes_release_qwen``) and rotates every layer at the
    first layer's clock (``memory.clock=first_layer``).
    """

    source: ClassVar[str] = "arXiv 2601.14724, official release"
    needs_attention: ClassVar[bool] = True
    stateless: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting(release_tiers("llava"), help="the release's tiers")
    smoother: Smoother = setting(Chain(recursive=True), help="from the deepest layer down")
    selector: Selector = setting(TopK(), before=TopK(timestamps=0.0), help="top-k per layer")
    reindex: Reindexer = setting(Lazy(whole_chunk=False, only_compressing=True), help="lazy, margin 1024")
    trigger: Literal["layer", "first_layer"] = setting("first_layer", help="as in TieredPolicy")

    def start(self, context: StreamContext) -> None:
        """Begin a stream; warns where the model is of the family with the other schedule."""
        super().start(context)
        if context.axes > 1 and self.tiers == release_tiers("llava"):
            logger.warning(
                "hermes_release has the release's schedule for LLaVA-OneVision; for Qwen2.5-VL it is "
                "policy=hermes_release_qwen memory.clock=first_layer"
            )
