"""Attention of a decoder that does not exist, with a structure over depth that is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from .mass import LayerMass

__all__ = ["Kind", "planted", "shuffled"]

Kind = Literal["recency", "mixed", "anchor", "none"]

# How a planted layer splits its mass: forgetting, anchors; the rest is an even floor.
_SHARES: dict[str, tuple[float, float]] = {
    "recency": (0.8, 0.0),
    "mixed": (0.4, 0.2),
    "anchor": (0.0, 0.4),
    "none": (0.0, 0.0),
}
_PREFIX = 8


def planted(
    layers: int,
    frames: int,
    tokens_per_frame: int,
    boundaries: Sequence[int],
    questions: int,
    seed: int,
    noise: float = 1.0,
    *,
    kinds: Sequence[Kind] = ("recency", "mixed", "anchor"),
    k: float = 20.0,
    drop: float = 0.0,
    videos: int | None = None,
) -> list[list[LayerMass]]:
    """Attention of a decoder with planted tiers: mass of each question in each layer.

    Source: after the findings of arXiv 2601.14724, Sec. 2.

    A layer's mass is a mixture, times noise, scaled to a random total. Forgetting is ``exp(-k age)`` by
    index; anchors are one token a frame, at the same place in nine of ten frames; the rest is even. Recency
    layers forget 0.8 of their mass, mixed ones 0.4 with 0.2 on anchors, anchor ones have 0.4 on anchors, and
    "none" is all even. The shares and k of each layer, and of each question in it, are jittered by a tenth.
    Noise is log-normal: of each token, half its variance shared by the questions of a video (content). A
    prefix of 8 tokens takes a random third of the mass.

    Args:
        layers: of the decoder.
        frames: held, one a second.
        tokens_per_frame: of them.
        boundaries: first layer of each tier but the first.
        questions: in all.
        seed: of everything random.
        noise: standard deviation of the logarithm of a token's mass.
        kinds: of the tiers, one more than boundaries.
        k: forgetting rate by relative age.
        drop: by how much the forgetting of a mixed tier falls over its depth, evenly around 0.4.
        videos: that the questions are of, in turn; None is one for every four. Question q is of q % videos.

    Returns:
        ``[question][layer]``.

    >>> attention = planted(4, 3, 2, [1, 3], questions=2, seed=0)
    >>> len(attention), len(attention[0]), attention[0][0].video.mass.shape
    (2, 4, (6,))
    """
    random = np.random.default_rng(seed)
    videos = videos or -(-questions // 4)
    count = frames * tokens_per_frame
    frame, patch = np.divmod(np.arange(count), tokens_per_frame)
    edges = [0, *boundaries, layers]
    tier_of = [sum(layer >= first for first in boundaries) for layer in range(layers)]
    place = int(random.integers(tokens_per_frame))
    stray = random.random((videos, frames)) < 0.1
    places = np.where(stray, random.integers(tokens_per_frame, size=(videos, frames)), place)
    own = [np.exp(0.1 * random.normal(size=3)) for _ in range(layers)]
    content = noise * np.sqrt(0.5) * random.normal(size=(videos, layers, count))
    out = []
    for question in range(questions):
        video = question % videos
        row = []
        for layer, tier in enumerate(tier_of):
            recent, anchored = _SHARES[kinds[tier]]
            if kinds[tier] == "mixed":
                first, stop = edges[tier : tier + 2]
                recent += drop * (0.5 - (layer - first) / (stop - first))
            jitter = own[layer] * np.exp(0.1 * random.normal(size=3))
            recent, anchored = np.minimum(np.array([recent, anchored]) * jitter[:2], [0.95, 0.45])
            age = np.arange(count - 1, -1, -1) / max(count - 1, 1)
            decay = np.exp(-k * jitter[2] * age)
            mixture = recent * decay / decay.sum() + max(1 - recent - anchored, 0.0) / count
            mixture[np.arange(frames) * tokens_per_frame + places[video]] += anchored / frames
            private = noise * np.sqrt(0.5) * random.normal(size=count)
            row.append(_layer(mixture * np.exp(content[video, layer] + private), frame, patch, random))
        out.append(row)
    return out


def shuffled(
    attention: Sequence[Sequence[LayerMass]], seed: int, *, tokens: bool = True
) -> list[list[LayerMass]]:
    """The same attention without structure over depth: layers in random order, their tokens too.

    One order of the layers serves all questions, so that each layer still is a layer.

    Args:
        attention: ``[question][layer]``.
        seed: of the permutations.
        tokens: permute the mass over the video tokens as well, in each layer of each question. Without it
            layers keep all they had but their place.

    >>> found = shuffled(planted(4, 3, 2, [1, 3], questions=2, seed=0), seed=0)
    >>> len(found), len(found[0])
    (2, 4)
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(attention[0])).tolist()
    out = []
    for question in attention:
        row = [question[layer] for layer in order]
        out.append([_permuted(layer, random) for layer in row] if tokens else row)
    return out


def _layer(
    video: Float[np.ndarray, " V"],
    frame: Int[np.ndarray, " V"],
    patch: Int[np.ndarray, " V"],
    random: np.random.Generator,
) -> LayerMass:
    """The masses with a prefix, scaled so that some is left for the question itself."""
    sink = random.beta(10, 20)
    prefix = random.dirichlet(np.ones(_PREFIX)) * sink
    mass = np.concatenate([prefix, (1 - sink) * video / video.sum()]) * random.uniform(0.7, 0.95)
    text = np.full(_PREFIX, -1)
    newest = frame[-1]
    age = np.concatenate([np.full(_PREFIX, newest + 1.0), newest - frame.astype(float)])
    return LayerMass(mass, np.concatenate([text, frame]), age, np.concatenate([text, patch]))


def _permuted(layer: LayerMass, random: np.random.Generator) -> LayerMass:
    mass = layer.mass.copy()
    video = layer.frame >= 0
    mass[video] = random.permutation(mass[video])
    return LayerMass(mass, layer.frame, layer.age, layer.patch)
