"""The world of Wanderer: named places, objects in their corners, and a walk through them at 1 fps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from hermes.config import Settings, setting

__all__ = [
    "COLOURS",
    "CORNERS",
    "PLACES",
    "SHAPES",
    "SPLITS",
    "Scene",
    "Split",
    "Stream",
    "WorldConfig",
    "code",
    "codes",
    "object_name",
    "sample_stream",
    "split_of",
]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# The last eight are the first eight with stripes.
PLACES = (
    *("meadow", "forest", "beach", "desert", "harbour", "city", "cave", "river"),
    *("farm", "orchard", "island", "canyon", "bridge", "market", "tunnel", "lake"),
)
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
OBJECTS = len(COLOURS) * len(SHAPES)
_LOOKS = 1 + OBJECTS * len(CORNERS)


@dataclass
class WorldConfig(Settings):
    """Difficulty of the streams (settings ``data.world.*``)."""

    length: int = setting(32, help="length of a stream", unit="s", ge=1)
    scene: int = setting(4, help="mean length of a scene; each is 50 to 150 % of it", unit="s", ge=1)
    empty: float = setting(0.15, help="share of places without an object", ge=0, le=1)
    flash: float = setting(0.3, help="share of visits that show their object for one frame only", ge=0, le=1)
    revisit: float = setting(0.0, help="chance of going back before every place was seen", ge=0, le=1)
    clutter: float = setting(0.2, help="share of frames with a grey speck that means nothing", ge=0, le=1)
    noise: float = setting(4.0, help="standard deviation of pixel noise, of 255", ge=0)


@dataclass(frozen=True)
class Scene:
    """One visit: frames ``start`` to ``end`` (exclusive) at a place; its object shows in ``shown``.

    ``obj`` and ``corner`` are -1 for an empty place; ``shown`` is then ``(start, start)``.
    """

    place: int
    start: int
    end: int
    obj: int = -1
    corner: int = -1
    shown: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Stream:
    """A walk: its scenes in order, and what each second shows (``code``: place, object and corner)."""

    scenes: tuple[Scene, ...]
    length: int

    @property
    def codes(self) -> Int[np.ndarray, " T"]:
        """What each frame shows, as :func:`code` numbers it."""
        shown = np.empty(self.length, np.int64)
        for scene in self.scenes:
            shown[scene.start : scene.end] = code(scene.place)
            if scene.obj >= 0:
                shown[slice(*scene.shown)] = code(scene.place, scene.obj, scene.corner)
        return shown


def code(place: int, obj: int = -1, corner: int = -1) -> int:
    """One number for what a frame shows.

    >>> code(0), code(1), code(0, 0, 0)
    (0, 145, 1)
    """
    return place * _LOOKS + (0 if obj < 0 else 1 + obj * len(CORNERS) + corner)


def codes(split: Split | None = None) -> Int[np.ndarray, "n 4"]:
    """Every look of a frame: its code, place, object and corner (-1: none); of one split, or of all.

    >>> codes().shape, codes("test").shape
    ((2320, 4), (400, 4))
    """
    rows = []
    for place in range(len(PLACES)):
        rows.append((code(place), place, -1, -1))
        for obj in range(OBJECTS):
            if split is None or split_of(place, obj) == split:
                rows += [(code(place, obj, c), place, obj, c) for c in range(len(CORNERS))]
    return np.array(rows)


def object_name(obj: int) -> str:
    """An object's one-word name.

    >>> object_name(0), object_name(35)
    ('red-circle', 'black-star')
    """
    return f"{COLOURS[obj // len(SHAPES)]}-{SHAPES[obj % len(SHAPES)]}"


def split_of(place: int, obj: int) -> Split:
    """The only split in which this object may stand at this place.

    Of the 36 objects a place can have, 6 are for the test, 6 for validation and 24 for training; in each
    split every place still meets every colour and every shape equally often.

    >>> [sum(split_of(p, o) == s for p in range(16) for o in range(36)) for s in SPLITS]
    [384, 96, 96]
    """
    colour, shape = divmod(obj, len(SHAPES))
    group = (colour - shape - place) % len(COLOURS)
    return "test" if group == 0 else "validation" if group == 1 else "train"


_ALLOWED = {
    split: [[o for o in range(OBJECTS) if split_of(p, o) == split] for p in range(len(PLACES))]
    for split in SPLITS
}


def sample_stream(config: WorldConfig, split: Split, seed: int, index: int) -> Stream:
    """Stream ``index`` of an endless, seeded series.

    Places come in random order, none again until all were seen (but for ``config.revisit``); a place keeps
    its object and corner throughout a stream, so that what was seen there has one answer.

    >>> stream = sample_stream(WorldConfig(length=60), "test", seed=0, index=7)
    >>> stream == sample_stream(WorldConfig(length=60), "test", seed=0, index=7), len(stream.codes)
    (True, 60)
    """
    rng = np.random.default_rng((SPLITS.index(split), seed, index))
    contents: dict[int, tuple[int, int]] = {}
    waiting: list[int] = []
    scenes: list[Scene] = []
    start = 0
    shortest, longest = max(1, (config.scene + 1) // 2), max(1, config.scene * 3 // 2)
    while start < config.length:
        last = scenes[-1].place if scenes else -1
        place = _next_place(rng, waiting, list(contents), last, config.revisit)
        if place not in contents:
            allowed = _ALLOWED[split][place]
            empty = rng.random() < config.empty
            obj = -1 if empty else allowed[int(rng.integers(len(allowed)))]
            contents[place] = (obj, -1 if empty else int(rng.integers(len(CORNERS))))
        obj, corner = contents[place]
        end = min(config.length, start + int(rng.integers(shortest, longest + 1)))
        shown = (start, start if obj < 0 else end)
        if obj >= 0 and rng.random() < config.flash:
            at = int(rng.integers(start, end))
            shown = (at, at + 1)
        scenes.append(Scene(place, start, end, obj, corner, shown))
        start = end
    return Stream(tuple(scenes), config.length)


def _next_place(
    rng: np.random.Generator, waiting: list[int], seen: list[int], last: int, revisit: float
) -> int:
    """Any place but the last one; unless it goes back, one that was not visited in this round."""
    back = [place for place in seen if place != last]
    if back and revisit > 0 and rng.random() < revisit:
        return back[int(rng.integers(len(back)))]
    if not waiting:
        waiting.extend(rng.permutation(len(PLACES)).tolist())
    if waiting[-1] == last:
        waiting.insert(0, waiting.pop())
    return waiting.pop()
