"""The settings of how frames are read."""

from __future__ import annotations

from dataclasses import dataclass

from hermes.config import Settings, setting


@dataclass
class VideoConfig(Settings):
    """How frames are read (settings ``video.*``)."""

    fps: float | None = setting(None, help="frames sampled per second; default: the backbone's", gt=0)
    start: float = setting(0.0, help="where to begin", unit="s", ge=0)
    end: float | None = setting(None, help="where to stop; default: the end", unit="s", gt=0)
    max_side: int | None = setting(None, help="longer side of a frame after decoding", unit="px", ge=16)
