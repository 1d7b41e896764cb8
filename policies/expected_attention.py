"""Expected attention: what queries yet to come will look at, if they are like the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hermes.attention import AttentionView, rotate_query
from hermes.config import setting
from hermes.parts import LayerContext, Scorer, Selector, TopK, ValueNorm
from hermes.policy import Tier, TieredPolicy
from hermes.tokens import expand_axes


@dataclass
class ExpectedAttention(Scorer):
    """The attention that Gaussian queries at the next positions will pay a token on average, times its value.

    Source: arXiv 2510.00636, Sec. 3; defaults as in kvpress. Queries before rotation have mean m and
    covariance C; with R the mean rotation of the next ``future`` positions and s the scaling, the logit of a
    key is ``s (R m) k + s^2 k (R C R') k / 2``. The softmax of it over the video tokens, mean over the query
    heads of a KV head, is multiplied by the norm of the token's value.
    """

    future: int = setting(512, help="next positions that are averaged over", unit="tokens", ge=1)
    covariance: bool = setting(True, help="count the queries' covariance; false: their mean alone")
    values: bool = setting(True, help="multiply by the norm of the values")
    epsilon: float = setting(0.0, help="added to the attention before", ge=0)

    @property
    def follows(self) -> bool:
        """The scorer reads the queries of every chunk."""
        return True

    def follow(
        self, view: AttentionView, before: Float[Tensor, "B _R T"], per_head: bool
    ) -> Float[Tensor, "B R T_P"]:
        """What the newest chunk's queries say, whatever was before."""
        layer, kv_heads = view.layer, view.own.shape[1]
        mean, covariance = self._queries(view)  # [B, Hq, 1, D], [B, Hq, D, D]
        keys = torch.cat((view.memory[:, :, layer.prefix :], view.own), dim=2).float()[:, :, None]
        logits = view.scaling * (mean.unflatten(1, (kv_heads, -1)) @ keys.mT)[..., 0, :]  # [B, Hkv, G, V]
        if self.covariance:
            spread = keys @ covariance.unflatten(1, (kv_heads, -1))
            logits = logits + view.scaling**2 / 2 * (spread * keys).sum(-1)
        shares = logits.softmax(-1).mean(2)
        return F.pad(shares if per_head else shares.mean(1, keepdim=True), (layer.prefix, 0))

    def _queries(self, view: AttentionView) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the chunk's queries before rotation, turned to the next positions."""
        layer, kv_heads, count = view.layer, view.own.shape[1], view.query.shape[2]
        rotary, device = layer.rotary, view.query.device
        plain = torch.arange(count, device=device).float().expand(rotary.axes, -1)
        steps = plain if view.positions is None else view.positions.to(device)
        # A layer without a turn of its own rotates at the shared clock.
        clock = torch.full_like(layer.clock, layer.start) if layer.to_shared_clock is None else layer.clock
        places = clock.to(device)[..., None] + steps[:, None, None]  # [A, B, R, Q]
        cos, sin = rotary.angles(places)
        query = rotate_query(view.query.float(), cos, -sin, kv_heads, layer.kernels)
        coming = places.amax((0, -1))[..., None] + 1 + torch.arange(self.future, device=device)
        angles = (x.mean(-2, keepdim=True) for x in rotary.angles(expand_axes(coming, rotary.axes)))
        cos, sin = angles

        def turned(rows: Tensor) -> Tensor:
            return rotate_query(rows, cos, sin, kv_heads, layer.kernels)

        mean = query.mean(2, keepdim=True)
        apart = query - mean
        covariance = apart.mT @ apart / count
        return turned(mean), turned(turned(covariance).mT)

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """Expected attention, times the norm of the value."""
        if not self.values:
            return context.followed
        return (context.followed + self.epsilon) * ValueNorm().score(context)


@dataclass
class ExpectedAttentionPolicy(TieredPolicy):
    """Keep, per KV head, the tokens that queries to come are expected to attend to.

    Source: arXiv 2510.00636. Differences: the paper compresses a prompt once and takes the statistics of all
    its queries, and this one a stream after every chunk, whose queries stand for those to come; the prefix
    takes the place of the sinks that are left out of softmax and selection; positions are re-indexed when
    they run out (lazy), where the paper leaves them. Queries are read as the decoder makes them, normed or
    with a bias too, which kvpress leaves out.
    """

    source: ClassVar[str] = "arXiv 2510.00636"
    needs_attention: ClassVar[bool] = True

    tiers: dict[str, Tier] = setting({"all": Tier(share=1.0, scorer=ExpectedAttention())}, help="one tier")
    selector: Selector = setting(TopK(rank="kv_head"), help="which tokens stay")
