"""The settings of how frames are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hermes.config import Settings, setting
from hermes.video.limits import MAX_BYTES, MAX_PIXELS


@dataclass
class VideoConfig(Settings):
    """How frames are read (settings ``video.*``)."""

    fps: float | None = setting(None, help="frames sampled per second; default: the backbone's", gt=0)
    start: float = setting(0.0, help="where to begin", unit="s", ge=0)
    end: float | None = setting(None, help="where to stop; default: the end", unit="s", gt=0)
    max_side: int | None = setting(None, help="longer side of a frame after decoding", unit="px", ge=16)
    max_gap: float | None = setting(
        None,
        help="a longer time without a picture counts as a leap of the time stamps, over which the clock goes "
        "on at once; default: an hour, of live sources half a minute",
        unit="s",
        gt=0,
        later=True,
    )
    max_pixels_decoded: int = setting(
        MAX_PIXELS, help="a larger picture is refused before it is decoded", unit="px", ge=1, later=True
    )
    max_bytes: int = setting(
        MAX_BYTES, help="a file of arrays that unpacks to more is refused", unit="bytes", ge=1, later=True
    )
    references: bool = setting(
        False,
        help="a local file may name others to be read: playlists (m3u8, mpd), lists (ffconcat), patterns",
        later=True,
    )
    options: dict[str, str | int | float | bool] = setting(
        {}, help="for FFmpeg's demuxer, such as video.options.rtsp_transport=tcp", later=True
    )

    def reading(self) -> dict[str, Any]:
        """These settings as :func:`hermes.video.open_source` takes them, but for the rate and the times."""
        names = ("max_side", "max_gap", "max_pixels_decoded", "max_bytes", "references", "options")
        return {name: getattr(self, name) for name in names}
