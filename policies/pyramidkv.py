"""PyramidKV: SnapKV's scores, with budgets that fall from the first layer to the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hermes.config import setting
from hermes.parts import Selector, TopK, WindowAttention
from hermes.policy import Tier, TieredPolicy


@dataclass
class PyramidKV(TieredPolicy):
    """Keep what the newest tokens attend to, more of it in shallow layers than in deep ones.

    Source: arXiv 2406.02069, Sec. 4. With c tokens a layer on average and a window of w, the last layer holds
    ``w + (c - w) / beta`` tokens, the first ``w + 2 (c - w) - (c - w) / beta``, those between on a line; the
    total is ``c * L``. Where ``(c - w) / beta`` is below w all layers hold c, as in kvpress. Other
    differences, and positions (lazy re-indexing), as of ``snapkv``. Budget weights of tiers are not used.
    """

    source: ClassVar[str] = "arXiv 2406.02069"
    needs_attention: ClassVar[bool] = True

    beta: float = setting(20.0, help="how much less the last layer holds besides the window", ge=1)
    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=WindowAttention())}, help="one tier")
    selector: Selector = setting(
        TopK(rank="kv_head"), before=TopK(rank="kv_head", timestamps=0.0), help="which tokens stay"
    )

    def budgets(self, num_layers: int) -> list[int]:
        """Video tokens per layer, on a falling line.

        >>> PyramidKV(budget=1000, beta=20).budgets(3)
        [1919, 1000, 80]
        """
        scorer = next(iter(self.tiers.values())).scorer
        window = scorer.window if isinstance(scorer, WindowAttention) else 0
        spare = self.budget - window
        least = spare / self.beta
        if least < window or spare <= 0 or num_layers == 1:
            return [self.budget] * num_layers
        step = 2 * (spare - least) / (num_layers - 1)
        return [int(window + 2 * spare - least - step * layer + 1e-9) for layer in range(num_layers)]
