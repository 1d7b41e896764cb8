"""Image files: single pictures, animations with their times, and folders."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from hermes.errors import InputError
from hermes.video.clock import Clock
from hermes.video.limits import Limits
from hermes.video.source import FrameSource, Pixels, Sampling, TimedImage
from hermes.video.still_source import StillSource, to_rgb

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Those that decode themselves: others of PIL's run programs.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF", "GIF")
_ANIMATED = ("PNG", "WEBP", "AVIF")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError)


class PictureSource(FrameSource):
    """A file of one picture, or an animation of several with their times (WebP, PNG, AVIF).

    Args:
        file: where it is read from.
        stays: seconds that a single picture stays.
        kept: whether the file stays open, as it is the caller's.

    Raises:
        InputError: no picture that can be read, or one that is too large.
    """

    def __init__(
        self,
        name: str,
        sampling: Sampling,
        file: Any,
        *,
        stays: float,
        limits: Limits,
        kept: bool = False,
    ) -> None:
        self._limits = limits
        self._stays = stays
        self._file = None if kept else file
        self._image = open_picture(file, name, limits)
        self._animated = self._image.format in _ANIMATED and getattr(self._image, "n_frames", 1) > 1
        super().__init__(name, sampling)

    def images(self) -> Iterator[TimedImage]:
        """Every picture, decoded; one of an animation that says nothing stays a tenth of a second.

        Raises:
            InputError: a picture that cannot be decoded.
        """
        clock = Clock(self._limits.gap(), self.warn)
        stamp = 0.0
        for i in range(getattr(self._image, "n_frames", 1) if self._animated else 1):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._image.seek(i)
                    pixels = to_rgb(ImageOps.exif_transpose(self._image), self.sampling)
            except _UNREADABLE as error:
                if not i:
                    raise _no_picture(self.name, error) from error
                self.warn(f"reading stopped at {stamp:.1f} s: {type(error).__name__}")
                break
            duration = (self._image.info.get("duration") or 100) / 1000 if self._animated else self._stays
            time = clock.time(stamp, duration)
            stamp += duration
            yield TimedImage(time, clock.until - time, partial(_same, pixels))
        self.duration = clock.until

    def close(self) -> None:
        """Release the file; no frame comes after."""
        super().close()
        if self._file is not None:
            self._file.close()


def _same(pixels: Pixels) -> Pixels:
    return pixels


def open_picture(file: Any, name: str, limits: Limits) -> Image.Image:
    """A picture whose header is read, and no more.

    Raises:
        InputError: none that can be read, or one that is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, whose limit is ours, and of damage
            image = Image.open(file, formats=_FORMATS)
    except _UNREADABLE as error:
        raise _no_picture(name, error) from error
    limits.check_picture(name, *image.size)
    return image


def _no_picture(name: str, error: BaseException) -> InputError:
    return InputError(f"{name}: not an image that can be read ({type(error).__name__})")


def is_picture(file: Any, suffix: str) -> bool:
    """Whether a file is for PIL to read: an image, by its first bytes or by its suffix and its header."""
    head = file.read(12)
    file.seek(0)
    webp, avif = head[:4] + head[8:] == b"RIFFWEBP", head[4:] in (b"ftypavif", b"ftypavis")
    if not (webp or avif or head.startswith(b"\x89PNG") or suffix.lower() in IMAGE_SUFFIXES):
        return False
    found = picture_size(file)
    file.seek(0)
    return found is not None


def picture_size(file: Any) -> tuple[int, int] | None:
    """Width and height of a picture by its header; ``None`` if it is none."""
    with suppress(InputError):
        return open_picture(file, "", Limits(max_pixels_decoded=2**62)).size
    return None


def image_folder(folder: Path, sampling: Sampling, *, source_fps: float, limits: Limits) -> StillSource:
    """The images of a folder in natural order (``2.png`` before ``10.png``), EXIF orientation applied.

    Raises:
        InputError: no image in the folder; (while iterating) an image that cannot be read, or is too large.
    """
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise InputError(f"{folder}: a folder that cannot be read ({error.strerror})") from error
    paths = sorted((path for path in found if not path.name.startswith(".")), key=natural_key)
    if not paths:
        raise InputError(f"{folder}: a folder without images ({', '.join(sorted(IMAGE_SUFFIXES))})")

    def load(i: int) -> Pixels:
        with open_picture(paths[i], str(paths[i]), limits) as image:
            try:
                return to_rgb(ImageOps.exif_transpose(image), sampling)
            except _UNREADABLE as error:
                raise _no_picture(str(paths[i]), error) from error

    return StillSource(str(folder), sampling, len(paths), load, source_fps=source_fps)


def natural_key(path: Path) -> list[str | int]:
    """Sort key that reads runs of digits as numbers.

    >>> [p.name for p in sorted([Path("f10.png"), Path("f9.png")], key=natural_key)]
    ['f9.png', 'f10.png']
    """
    # Text and numbers alternate, so that keys always compare like with like.
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(re.split(r"(\d+)", path.name))]
