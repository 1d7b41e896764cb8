"""From measures to tiers: boundaries over depth, what each tier does, and a policy config of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hermes.errors import InputError

from .measures import LayerMeasures, estimate
from .segments import fitted, segment, segments_supported, standardised, structure_p
from .synthetic import Kind

__all__ = ["Boundary", "Discovery", "FoundTier", "discover", "features"]

# Least share of the mass, and of the log-profile's variance, that makes a tier recent, or rhythmic.
_RECENT, _RHYTHMIC = 0.15, 0.03
# Budget weights stay within these, so that one tier never starves another.
_WEIGHTS = (0.5, 2.0)
_NAMES: dict[Kind, str] = {"recency": "sensory", "mixed": "working", "anchor": "long_term", "none": "flat"}


class Boundary(NamedTuple):
    """Where a tier begins.

    Attributes:
        layer: its first layer.
        low, high: 95 % interval of it by the bootstrap.
        close: share of resamples in which it is at most one layer off.
    """

    layer: int
    low: int
    high: int
    close: float


class FoundTier(NamedTuple):
    """One tier and its parameters.

    Source: after arXiv 2601.14724, Sec. 3.1.

    Attributes:
        name: in the config.
        kind: ``recency``, ``anchor``, ``mixed`` of both, or ``none`` of them.
        layers: of the decoder that was measured.
        recency: share of the mass that forgetting explains; the blend's weight of recency.
        recency_drop: by how much it falls from the tier's first layer to the next tier.
        k: forgetting rate by relative age; NaN where there is nothing to forget from.
        rhythm: strength of the rhythm.
        weight: budget weight.
    """

    name: str
    kind: Kind
    layers: range
    recency: float
    recency_drop: float
    k: float
    rhythm: float
    weight: float


@dataclass(frozen=True)
class Discovery:
    """What the measures of a decoder say about tiers.

    Attributes:
        tiers: from the first layer to the last; one where no structure was found.
        boundaries: one fewer.
        p: that the order of the layers does not matter.
        steps: p-value of each further segment that was tried.
        explained: adjusted share of the variance over depth that the tiers explain.
        level: of the tests.
    """

    tiers: tuple[FoundTier, ...]
    boundaries: tuple[Boundary, ...]
    p: float
    steps: tuple[float, ...]
    explained: float
    level: float

    @property
    def sentence(self) -> str:
        """The finding in words."""
        number = len(self.tiers)
        if number == 1 and self.p > self.level:
            why = f"No structure over depth was found (order of layers: p = {self.p:.2g})."
            return f"{why} One tier holds all layers; the paper's three are not supported."
        if number == 1:
            why = (
                f"Measures change over depth (order of layers: p = {self.p:.2g}), but evenly, without a step."
            )
            return f"{why} One tier holds all layers; the paper's three are not supported."
        parts = ", ".join(
            f"{tier.name} ({tier.kind}) {tier.layers.start}-{tier.layers.stop - 1}" for tier in self.tiers
        )
        found = (
            f"The evidence supports {number} tiers (order of layers: p = {self.p:.2g}): layers of {parts}."
        )
        if number == 2:
            return f"{found} The paper has three; a third would not explain significantly more."
        return f"{found} The paper's three would leave out a clear step." if number > 3 else found

    def config(self, comment: str = "") -> str:
        """A policy config, YAML, that runs with any backbone: tiers are shares of the layers.

        Recency tiers score by recency, anchor tiers by attention to the global prompt with a summary token,
        mixed ones by a blend, as the paper's do; tiers that are neither by attention to the global prompt.

        Args:
            comment: put above, such as what was measured.
        """
        lines = [f"# {line}" for line in (*comment.splitlines(), *_wrapped(self.sentence))]
        lines += ["name: hermes", "tiers:"]
        layers, before = self.tiers[-1].layers.stop, 0.0
        for tier in self.tiers:
            # Rounded up: a tier ends at the floor of the cumulative share times the number of layers.
            upto = math.ceil(tier.layers.stop / layers * 1e4 - 1e-9) / 1e4
            lines += [f"  {tier.name}:", f"    share: {upto - before:.4f}", *_parts(tier)]
            before = upto
        return "\n".join(lines) + "\n"


def discover(
    measures: Sequence[Sequence[LayerMeasures]],
    groups: Sequence[Hashable] | None = None,
    most: int = 5,
    level: float = 0.01,
    resamples: int = 400,
    seed: int = 0,
) -> Discovery:
    """Tiers over depth, if there are any.

    Source: arXiv 2601.14724, Sec. 2 draws three tiers by eye.

    1. :func:`features` of each layer, in units of their noise from layer to layer.
    2. Is there structure? The layers are permuted (:func:`hermes.analysis.segments.structure_p`): without p
       at or below ``level`` there is one tier.
    3. How many? Segments are added while each explains more than it would of noise at the same level
       (:func:`hermes.analysis.segments.segments_supported`).
    4. Boundaries are those of the best segments. Their uncertainty: groups are drawn with replacement, and
       the residuals of the layers too, and segmented anew.
    5. A tier is recent if 95 % intervals put at least 15 % of its mass on forgetting, rhythmic if they put
       at least 3 % of its log-profile's variance on the rhythm. Budget weights are the effective tokens of
       a tier's layers, relative to all layers', within 0.5 and 2.

    Layers are the sample in 2 and 3, as each has its own ways: however many questions were asked, few layers
    show little. Ten layers in tiers of 1, 6 and 3 can just reach 1 %; in two tiers of 1 and 9 they cannot.

    Args:
        measures: ``[question][layer]``.
        groups: the video of each question; None takes questions as independent.
        most: tiers at most.
        level: of the tests.
        resamples: of the bootstrap.
        seed: of everything random.

    Raises:
        InputError: no question, or questions of different numbers of layers.

    >>> from hermes.analysis.measures import measure
    >>> from hermes.analysis.synthetic import planted
    >>> attention = planted(16, 16, 8, [3, 10], questions=8, seed=0, noise=0.5)
    >>> found = discover([[measure(layer, 8) for layer in row] for row in attention])
    >>> [(tier.kind, tier.layers) for tier in found.tiers]
    [('recency', range(0, 3)), ('mixed', range(3, 10)), ('anchor', range(10, 16))]
    """
    if not measures or len({len(row) for row in measures}) != 1 or not measures[0]:
        raise InputError("tiers can be sought only in measures of one question or more, of equal layers each")
    values = features(measures)
    x = standardised(_mean(values))
    layers = len(x)
    most = max(min(most, layers // 2), 1)
    p, number = 1.0, 1
    steps: list[float] = []
    if most > 1 and x.shape[1]:
        p = structure_p(_mean(values), most, seed=seed)
        if p <= level:
            number, steps = segments_supported(x, most, level, seed=seed)
    firsts = segment(x, number)[1][-1]
    edges = [0, *firsts, layers]
    spans = [range(first, stop) for first, stop in itertools.pairwise(edges)]
    tiers = [_tier(measures, span, groups, seed) for span in spans]
    return Discovery(
        tiers=tuple(_named(tiers)),
        boundaries=tuple(_boundaries(values, firsts, groups, resamples, seed)),
        p=p,
        steps=tuple(steps),
        explained=_explained(x, firsts),
        level=level,
    )


def features(measures: Sequence[Sequence[LayerMeasures]]) -> Float[np.ndarray, "Q L D"]:
    """What tiers are told apart by: mean age, rhythm, and Gini coefficient.

    One of recency, rhythm and sparsity each, without a fit or a bound that it may run into; none is about the
    prefix. A measure that some layer has in no question is left out.
    """
    raw = np.array([[(one.mean_age, one.rhythm, one.gini) for one in row] for row in measures], dtype=float)
    seen = ~np.isnan(raw).all(axis=0).any(axis=0)
    out: Float[np.ndarray, "Q L D"] = raw[..., seen]
    return out


def _mean(values: Float[np.ndarray, "Q L D"]) -> Float[np.ndarray, "L D"]:
    known = ~np.isnan(values)
    out: Float[np.ndarray, "L D"] = np.where(known, values, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return out


def _boundaries(
    values: Float[np.ndarray, "Q L D"],
    firsts: list[int],
    groups: Sequence[Hashable] | None,
    resamples: int,
    seed: int,
) -> list[Boundary]:
    if not firsts:
        return []
    random = np.random.default_rng(seed)
    labels = list(range(len(values)) if groups is None else groups)
    members = [[i for i, label in enumerate(labels) if label == name] for name in dict.fromkeys(labels)]
    drawn = []
    for _ in range(resamples):
        chosen = [i for group in random.integers(len(members), size=len(members)) for i in members[group]]
        x = standardised(_mean(values[chosen]))
        means = fitted(x, firsts)
        # Layers differ within a tier as much as they were seen to, and anew.
        again = means + (x - means)[random.integers(len(x), size=len(x))]
        drawn.append(segment(again, len(firsts) + 1)[1][-1])
    found = np.array(drawn)
    low, high = np.quantile(found, [0.025, 0.975], axis=0, method="nearest")
    close = (np.abs(found - firsts) <= 1).mean(0)
    return [Boundary(*row) for row in zip(firsts, low.tolist(), high.tolist(), close.tolist(), strict=True)]


def _tier(
    measures: Sequence[Sequence[LayerMeasures]], layers: range, groups: Sequence[Hashable] | None, seed: int
) -> FoundTier:
    def over(name: str, rows: range = layers) -> Float[np.ndarray, "Q L"]:
        return np.array([[getattr(row[layer], name) for layer in rows] for row in measures], dtype=float)

    recency, rhythm = (
        estimate(_mean(over(name).T[..., None])[:, 0], groups, seed=seed) for name in ("recency", "rhythm")
    )
    # One group has no interval, and its mean has to do.
    recent, rhythmic = (
        (one.mean if math.isnan(one.low) else one.low) > least
        for one, least in ((recency, _RECENT), (rhythm, _RHYTHMIC))
    )
    kind: Kind = "mixed" if recent and rhythmic else "recency" if recent else "anchor" if rhythmic else "none"
    rates = over("k")
    rates = np.log(rates[~np.isnan(rates)])
    first, drop = recency.mean, 0.0
    if kind == "mixed" and len(layers) >= 8:
        depth = np.arange(len(layers)) / len(layers)
        slope, level = np.polyfit(depth, _mean(over("recency")[..., None])[:, 0], 1)
        if slope < 0:
            first = min(float(level), 1.0)
            drop = min(float(-slope), first)
    tokens = _mean(over("effective_tokens", range(len(measures[0])))[..., None])[:, 0]
    # Nothing known of any layer leaves them equal.
    needed = tokens[layers.start : layers.stop].mean() / tokens.mean() if tokens.all() else 1.0
    weight = float(np.clip(needed, *_WEIGHTS))
    k = float(np.exp(rates.mean())) if len(rates) else math.nan
    return FoundTier(_NAMES[kind], kind, layers, first, drop, k, rhythm.mean, weight)


def _named(tiers: list[FoundTier]) -> list[FoundTier]:
    """A number after the name where a kind occurs again."""
    out: list[FoundTier] = []
    for tier in tiers:
        before = sum(other.kind == tier.kind for other in out)
        out.append(tier._replace(name=f"{tier.name}_{before + 1}") if before else tier)
    return out


def _parts(tier: FoundTier) -> list[str]:
    """Settings of a tier in the config; smoothing is the paper's for its place."""
    attention = "{name: guided_attention, prompt: %s}"
    recency = f"{{name: recency, k: {tier.k:.3g}}}"
    if tier.kind == "recency":
        lines = [f"scorer: {recency}", "smoothing: 0.1"]
    elif tier.kind == "mixed":
        lines = [
            "scorer:",
            "  name: blend",
            f"  first: {attention % 'mixed'}",
            f"  second: {recency}",
            # The drop is rounded down, as it must not exceed the weight.
            f"  weight: {tier.recency:.2f}",
            f"  weight_drop: {min(round(tier.recency_drop, 2), round(tier.recency, 2)):.2f}",
            "smoothing: 0.3",
        ]
    else:
        lines = [f"scorer: {attention % 'global'}"]
        lines += ["merger: summary", "smoothing: 0.4"] if tier.kind == "anchor" else []
    return [f"    {line}" for line in (*lines, f"weight: {tier.weight:.2f}")]


def _wrapped(text: str, width: int = 100) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _explained(x: Float[np.ndarray, "L D"], firsts: list[int]) -> float:
    """Share of the variance over depth that the segments explain, adjusted for their number."""
    whole = float(((x - x.mean(0)) ** 2).sum())
    # A boundary and a mean each, and mostly a slope.
    parameters = 3 * (len(firsts) + 1) - 1
    if whole <= 0 or len(x) <= parameters:
        return math.nan
    error = float(((x - fitted(x, firsts)) ** 2).sum())
    return 1 - error / (len(x) - parameters) / (whole / (len(x) - 1))
