"""Pictures of the world: 32x32 pixels, drawn in numpy."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int, UInt8

from hermes.data.wanderer.world import CORNERS, PLACES, SHAPES, Stream, WorldConfig, codes
from hermes.video import Frame

__all__ = ["SIDE", "frames", "render"]

SIDE = 32
_BOX = 13
_GROUNDS = np.array(
    [
        *([150, 200, 120], [60, 105, 75], [235, 205, 150], [205, 140, 90]),
        *([110, 165, 215], [135, 135, 150], [95, 70, 85], [90, 185, 185]),
    ]
)
_PAINTS = np.array([[225, 25, 30], [20, 150, 30], [25, 40, 225], [250, 235, 20], [255, 255, 255], [5, 5, 5]])


@functools.cache
def _masks() -> Bool[np.ndarray, "shape box box"]:
    """The six shapes in a box."""
    y, x = np.mgrid[:_BOX, :_BOX] - (_BOX - 1) / 2
    radius, half = np.hypot(x, y), _BOX / 2 - 1
    ring = (radius <= half) & (radius >= half - 2.5)
    triangle = (y >= -half) & (y <= half - 1) & (np.abs(x) <= (y + half) / 2 + 0.5)
    cross = ((np.abs(x) <= 1.5) | (np.abs(y) <= 1.5)) & (np.maximum(abs(x), abs(y)) <= half)
    diagonals = (np.abs(np.abs(x) - np.abs(y)) <= 1.0) & (radius <= half + 1.5)
    shapes = {
        "circle": radius <= half,
        "square": np.maximum(abs(x), abs(y)) <= half - 0.5,
        "triangle": triangle,
        "cross": cross,
        "ring": ring,
        "star": diagonals | (radius <= 2),
    }
    return np.stack([shapes[name] for name in SHAPES])


@functools.cache
def _grounds() -> UInt8[np.ndarray, "place H W 3"]:
    """Each place without anything in it; the second half has diagonal stripes."""
    y, x = np.mgrid[:SIDE, :SIDE]
    striped = (x + y) // 4 % 2 == 1
    plain = np.broadcast_to(_GROUNDS[:, None, None], (len(_GROUNDS), SIDE, SIDE, 3))
    shade = np.where(_GROUNDS.mean(-1, keepdims=True) > 120, 0.7, 1.45)
    lines = np.where(striped[None, ..., None], plain * shade[:, None, None], plain)
    both = np.concatenate([plain, lines]).clip(0, 255).astype(np.uint8)
    return both[: len(PLACES)]


@functools.cache
def _looks() -> Int[np.ndarray, "n 4"]:
    return codes()


def render(
    looks: Int[np.ndarray, " T"], rng: np.random.Generator, *, noise: float = 4.0, clutter: float = 0.2
) -> UInt8[np.ndarray, "T 32 32 3"]:
    """Draw frames by code: a ground, the object a pixel or two off its corner's middle, a speck, noise.

    Args:
        looks: codes, as ``Stream.codes``.
        rng: of jitter, specks and noise.
        noise: standard deviation, of 255.
        clutter: share of frames with a speck.

    >>> render(np.array([0, 1]), np.random.default_rng(0)).shape
    (2, 32, 32, 3)
    """
    _, place, obj, corner = _looks()[looks].T
    images = _grounds()[place].astype(np.float32)
    half = SIDE // 2
    for i in np.flatnonzero(rng.random(len(looks)) < clutter):
        y, x = rng.integers(0, SIDE - 2, 2)
        images[i, y : y + 2, x : x + 2] = 128
    jitter = rng.integers(0, half - _BOX + 1, (len(looks), 2))
    for i in np.flatnonzero(obj >= 0):
        colour, shape = divmod(int(obj[i]), len(SHAPES))
        y, x = jitter[i] + half * np.array(divmod(int(corner[i]), len(CORNERS) // 2))
        images[i, y : y + _BOX, x : x + _BOX][_masks()[shape]] = _PAINTS[colour]
    if noise:
        images += rng.normal(0, noise, images.shape).astype(np.float32)
    drawn: UInt8[np.ndarray, "T 32 32 3"] = images.clip(0, 255).astype(np.uint8)
    return drawn


def frames(stream: Stream, config: WorldConfig, seed: int = 0) -> Iterator[Frame]:
    """The stream's frames, one a second, as a session takes them; drawn a minute at a time."""
    rng = np.random.default_rng(seed)
    shown = stream.codes
    for start in range(0, stream.length, 60):
        images = render(shown[start : start + 60], rng, noise=config.noise, clutter=config.clutter)
        for i, image in enumerate(images, start=start):
            yield Frame(image, float(i), i)
