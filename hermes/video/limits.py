"""How much a source may ask of the machine, checked before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

from hermes.errors import InputError, SettingError

MAX_PIXELS = 2**26  # 8192 x 8192
MAX_BYTES = 2**31
MAX_GAP = 3600.0
LIVE_GAP = 30.0


@dataclass(frozen=True)
class Limits:
    """Bounds of what is read (settings ``video.*`` of the same names).

    Attributes:
        max_gap: seconds; over a longer time without a picture the clock goes on at once; ``None``: an hour,
            of live sources half a minute.
        max_pixels_decoded: width times height of a picture.
        max_bytes: bytes of an array unpacked from a file.

    Raises:
        SettingError: a bound that is not above 0.

    >>> Limits(max_pixels_decoded=100).check_picture("a.png", 20, 10)
    Traceback (most recent call last):
    hermes.errors.InputError: a.png: pictures of 20x10 are larger than video.max_pixels_decoded=100 allows
    """

    max_gap: float | None = None
    max_pixels_decoded: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        for name in ("max_gap", "max_pixels_decoded", "max_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(f"video.{name}", value, "a number above 0")

    def gap(self, live: bool = False) -> float:
        """Seconds that a picture may stay before the next."""
        if self.max_gap is not None:
            return self.max_gap
        return LIVE_GAP if live else MAX_GAP

    def check_picture(self, name: str, width: int, height: int) -> None:
        """Refuse a picture that is too large.

        Raises:
            InputError: it is.
        """
        if width * height > self.max_pixels_decoded:
            raise InputError(
                f"{name}: pictures of {width}x{height} are larger than "
                f"video.max_pixels_decoded={self.max_pixels_decoded} allows"
            )

    def check_bytes(self, name: str, count: int) -> None:
        """Refuse an array that is too large.

        Raises:
            InputError: it is.
        """
        if count > self.max_bytes:
            raise InputError(
                f"{name}: unpacks to {count} bytes, more than video.max_bytes={self.max_bytes} allows"
            )
