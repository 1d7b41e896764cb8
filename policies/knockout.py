"""HERMES with layers that forget at the question: what was their memory good for?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from hermes.config import setting
from hermes.errors import SettingError, did_you_mean
from hermes.memory import KVLayer, LayerUpdate
from hermes.policy import Recall, StreamContext, Tier, TieredPolicy, hierarchy


@dataclass
class Knockout(TieredPolicy):
    """The stream is kept as by ``hermes``; at a question the layers of one tier hide what they hold.

    A causal check of arXiv 2601.14724, Sec. 2: a tier that is a long-term memory must
    cost old answers and no new ones when it is hidden. The other layers, and the stream's memory, stay as
    they are. With a budget above the stream's tokens nothing is evicted before.

    Raises:
        SettingError: shares that do not sum to 1, or a tier that there is not.

    >>> Knockout(tier="sensory").hidden(10), Knockout(tier="", layers=[4]).hidden(10)
    ([0], [4])
    """

    needs_attention: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting(hierarchy(), help="sensory, working and long-term memory")
    tier: str = setting("long_term", help='whose layers forget; "": none')
    layers: list[int] = setting([], help="layers that forget besides", ge=0)
    keep: Literal["newest_frame", "prefix"] = setting(
        "newest_frame", help="what they still see: the prefix and what they hold of the newest frame, or less"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tier and self.tier not in self.tiers:
            raise SettingError("tier", self.tier, list(self.tiers), did_you_mean(self.tier, self.tiers))

    def start(self, context: StreamContext) -> None:
        """Begin a stream.

        Raises:
            SettingError: a layer that the decoder does not have, or a budget too small for summaries.
        """
        super().start(context)
        if any(index >= context.num_layers for index in self.layers):
            raise SettingError("policy.layers", self.layers, f"layers below {context.num_layers}")

    def hidden(self, num_layers: int) -> Sequence[int]:
        """The layers that see nothing of the memory at the question."""
        tier = self.boundaries(num_layers)[self.tier] if self.tier else ()
        return sorted({*tier, *self.layers})

    def recall(self, call: Recall) -> None:
        """Hide what the layers hold, in the copy that answers."""
        newest = max(int(layer.origin.frame.max()) for layer in call.memory)
        hidden = self.hidden(len(call.memory.managed))
        call.memory.apply({index: self._left(call.memory[index], newest) for index in hidden})

    def _left(self, layer: KVLayer, newest: int) -> LayerUpdate:
        frame = layer.video.frame
        # Rows keep as many: where KV heads hold different tokens, some keep the next newest besides.
        kept = int((frame == newest).sum(-1).max()) if self.keep == "newest_frame" else 0
        return layer.keeping(frame.argsort(dim=-1, stable=True)[..., frame.shape[-1] - kept :])
