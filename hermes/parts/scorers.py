"""Scorers: how much each video token of a layer is worth keeping."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.attention import AttentionView, Guidance, SecondReading
from hermes.config import Part, setting
from hermes.errors import SettingError
from hermes.memory import KVLayer


def normalise(x: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """Min-max over the last axis: ``(x - min) / (max - min + 1e-6)`` (arXiv 2601.14724, Sec. 3.1).

    >>> normalise(torch.tensor([1.0, 3.0])).round(decimals=3)
    tensor([0., 1.])
    """
    if x.shape[-1] == 0:
        return x
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    return (x - low) / (high - low + 1e-6)


@dataclass(frozen=True)
class LayerContext:
    """What a scorer may read about one layer.

    Attributes:
        layer: keys, values, positions and provenance.
        depth: 0 at the first layer of the tier, towards 1 (never reached) at the first of the next.
        per_head: the selection ranks per KV head, so scores are wanted per head too.
        prompt: renders a guidance prompt by kind (``local``, ``global``, ``mixed``).
        generator: the stream's random numbers.
        attention: what was observed for the guidance this scorer asked for, ``[B, R, V]`` each.
        followed: what a scorer that follows the chunks' attention made of it; empty for the others.
    """

    layer: KVLayer
    depth: float
    per_head: bool
    prompt: Callable[[str], str]
    generator: torch.Generator
    attention: Mapping[Guidance, Float[Tensor, "B R V"]] = field(default_factory=dict)
    followed: Float[Tensor, "_B _R F"] = field(default_factory=lambda: torch.zeros(1, 1, 0))

    @property
    def length(self) -> int:
        """V, the tokens to be scored."""
        return self.layer.video_length


@dataclass(frozen=True)
class FusedBlend:
    """A score as :func:`hermes.kernels.blended_scores` makes it for all layers at once.

    Source: arXiv 2601.14724, Sec. 3.1: ``(1 - weight) n(attention) + weight n(exp(-rate age))``.

    Attributes:
        guidance: whose attention; None where ``weight`` is 1.
        weight: of recency.
        rate: of forgetting.
    """

    guidance: Guidance | None
    weight: float
    rate: float


class Scorer(Part, ABC):
    """Scores the video tokens of one layer; higher is kept.

    ``score`` returns ``[B, R, V]`` (R = 1, or the KV heads), float32. A scorer that
    needs attention to a text says so in ``queries`` and finds it in ``context.attention``; one that needs
    the chunks' own attention ``follows`` it and finds what it made of it in ``context.followed``.
    """

    kind: ClassVar[str] = "scorer"

    def queries(self, context: LayerContext) -> Sequence[Guidance]:
        """Guidance whose attention this scorer reads; none by default."""
        return ()

    @property
    def follows(self) -> bool:
        """Whether :meth:`follow` is to see the attention of every chunk."""
        return False

    @property
    def second_reading(self) -> SecondReading | None:
        """How each chunk is read once more, if :meth:`follow` is to see that reading and not the first.

        The chunk is held by then: a number for each held token is wanted, ``[B, R, T]``.
        """
        return None

    def follow(
        self, view: AttentionView, before: Float[Tensor, "B _R T"], per_head: bool
    ) -> Float[Tensor, "B R T_P"]:
        """A number for each held token and each of the chunk's, from the chunk's attention.

        Args:
            view: one layer's attention as the decoder reads a chunk (``view.received``).
            before: what this gave for the held tokens, zeros at first.
            per_head: a row per KV head is wanted.
        """
        return view.received(per_head=per_head)

    def blending(self, context: LayerContext) -> FusedBlend | None:
        """The same score as a :class:`FusedBlend`, one operation for all layers; None by default."""
        return None

    @abstractmethod
    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """Worth of each video token, float32 ``[B, R, V]``."""


@dataclass
class Recency(Scorer):
    """Exponential forgetting ``exp(-k age)``, min-max normalised; age 0 is the newest token, 1 the oldest.

    Source: arXiv 2601.14724, Sec. 3.1. The paper gives k > 0 without a number; age is normalised over the
    tokens held and is an index in the cache, not a time, as in the release.
    """

    k: float = setting(20.0, help="forgetting rate at the tier's first layer", ge=0)
    k_drop: float = setting(0.0, help="by how much k has fallen at the end of the tier")

    def blending(self, context: LayerContext) -> FusedBlend | None:
        """Recency alone; None for subclasses, which may score otherwise."""
        return FusedBlend(None, 1.0, self._rate(context)) if type(self) is Recency else None

    def _rate(self, context: LayerContext) -> float:
        return self.k - self.k_drop * context.depth

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """Forgetting by age, the same in every KV head."""
        n, device = context.length, context.layer.keys.device
        k = self._rate(context)
        age = torch.arange(n - 1, -1, -1, device=device, dtype=torch.float32) / max(n - 1, 1)
        return normalise(torch.exp(-k * age)).expand(context.layer.clock.shape[0], context.layer.rows, -1)


@dataclass
class GuidedAttention(Scorer):
    """Attention of a guidance prompt to each token, min-max normalised.

    Source: arXiv 2601.14724, Sec. 3.1 (S = a W). ``probe: exact`` runs the prompt through the model over
    the memory; ``embedding`` is the release's shortcut. On random models the two correlate weakly in deep
    layers, and only ``exact`` is what the model attends to.
    """

    prompt: Literal["local", "global", "mixed"] = setting("global", help="which guidance prompt asks")
    probe: Literal["exact", "embedding"] = setting("exact", help="true forward, or the release's shortcut")
    half: bool = setting(False, help="softmax in float16, as the release does for Qwen2.5-VL")

    def _guidance(self, context: LayerContext) -> Guidance:
        return Guidance(context.prompt(self.prompt), self.probe, context.per_head, self.half)

    def queries(self, context: LayerContext) -> Sequence[Guidance]:
        """The guidance prompt, as it reads now."""
        return (self._guidance(context),)

    def blending(self, context: LayerContext) -> FusedBlend | None:
        """A blend of attention alone; None for subclasses, whose score may differ."""
        return FusedBlend(self._guidance(context), 0.0, 0.0) if type(self) is GuidedAttention else None

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """The observed attention, normalised."""
        return normalise(context.attention[self._guidance(context)])


@dataclass
class Blend(Scorer):
    """``(1 - w) first + w second``, with w falling over the depth of the tier.

    Source: arXiv 2601.14724, Sec. 3.1: working memory blends attention with recency,
    ``w = weight - weight_drop * depth``.

    Raises:
        SettingError: a weight that would fall below 0, or two scorers that follow the chunks' attention.
    """

    first: Scorer = setting(GuidedAttention(prompt="mixed"), help="scorer at weight 1 - w")
    second: Scorer = setting(Recency(k_drop=12.0), help="scorer at weight w")
    weight: float = setting(0.75, help="w at the tier's first layer", ge=0, le=1)
    weight_drop: float = setting(0.6, help="by how much w has fallen at the end of the tier", ge=0, le=1)

    def __post_init__(self) -> None:
        if self.weight_drop > self.weight:
            allowed = f"at most weight, {self.weight:g}"
            raise SettingError("weight_drop", self.weight_drop, allowed, "The weight w would fall below 0.")
        if self.first.follows and self.second.follows:
            raise SettingError("second", type(self.second).__name__, "a scorer that follows no attention")

    @property
    def follows(self) -> bool:
        """Whether one of the two scorers follows the chunks' attention."""
        return self.first.follows or self.second.follows

    @property
    def second_reading(self) -> SecondReading | None:
        """That of the scorer that follows attention."""
        return (self.first if self.first.follows else self.second).second_reading

    def follow(
        self, view: AttentionView, before: Float[Tensor, "B _R T"], per_head: bool
    ) -> Float[Tensor, "B R T_P"]:
        """Let the scorer that follows attention see the chunk."""
        return (self.first if self.first.follows else self.second).follow(view, before, per_head)

    def queries(self, context: LayerContext) -> Sequence[Guidance]:
        """The guidance that either scorer asks for."""
        return (*self.first.queries(context), *self.second.queries(context))

    def blending(self, context: LayerContext) -> FusedBlend | None:
        """Attention and recency, in either order; None for other pairs and for subclasses."""
        pair, w = (self.first, self.second), self._weight(context)
        if type(self) is not Blend or {type(one) for one in pair} != {GuidedAttention, Recency}:
            return None
        first, second = (one.blending(context) for one in pair)
        if first is None or second is None:
            return None
        if first.guidance is None:
            first, second, w = second, first, 1 - w
        return FusedBlend(first.guidance, w, second.rate)

    def _weight(self, context: LayerContext) -> float:
        return self.weight - self.weight_drop * context.depth

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """The weighted sum of both scores, at this layer's depth."""
        w = self._weight(context)
        return (1 - w) * self.first.score(context) + w * self.second.score(context)


@dataclass
class RandomScore(Scorer):
    """A random number per token, drawn once from the stream's seed and the token's id.

    A control. As a token keeps its number, the best-scored tokens are a uniform
    sample of the whole stream, the same in every layer; with ``redraw`` numbers are fresh at every step, so
    that old tokens die out exponentially.
    """

    redraw: bool = setting(False, help="draw anew at every step and in every layer")

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """Each token's own number in [0, 1), or a fresh one with ``redraw``."""
        ids = context.layer.video.id
        if self.redraw:
            return torch.rand(ids.shape, generator=context.generator).to(ids.device)
        # SplitMix64's mixing, in wrapping int64 arithmetic, needs no state per token.
        x = ids + context.generator.initial_seed() % 2**40 * 1_000_003
        for multiplier in (-4658895280553007687, -7723592293110705685):
            x = (x ^ (x >> 30)) * multiplier
        return ((x >> 20) & 0xFFFFFF).float() / 2**24
