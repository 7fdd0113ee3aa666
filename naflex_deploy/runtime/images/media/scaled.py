"""JPEG files that are decoded at a half, a quarter or an eighth, once the size at which they are wanted is known.

The inverse transform of a JPEG gives blocks of 8, 4, 2 or 1 pixels a side, and fewer pixels take less time. Each is
about the mean of the pixels that it stands for, so that results differ a little from those of all pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO

from PIL import Image
from PIL.Image import Resampling
from PIL.JpegImagePlugin import JpegImageFile

from naflex_deploy.runtime.images.media.colours import QUARTERS, upright
from naflex_deploy.runtime.images.resampling import resized
from naflex_deploy.runtime.images.source import damage

MODES = ("RGB", "L")
"""Pillow's modes of files that may be decoded scaled: colour and grey, not CMYK."""


MARGIN = 1.25
"""Pixels a side that are decoded for each one that is wanted, at least: with fewer, fine detail shows the scale."""


@dataclass(frozen=True, eq=False)
class ScaledJpeg:
    """A JPEG whose pixels are decoded by `resize`.

    Attributes:
        stream: The file.
        size: (width, height) in pixels as it is seen.
        turn: Its EXIF orientation.
        name: In messages.
    """

    stream: IO[bytes]
    size: tuple[int, int]
    turn: object
    name: str

    def resize(self, size: tuple[int, int], resample: Resampling) -> Image.Image:
        """Decode it at the smallest scale that has enough pixels, and resize that.

        Raises:
            ImageError: It is damaged.
        """
        across, down = (math.ceil(MARGIN * side) for side in size)
        return resized(self._decoded((down, across) if self.turn in QUARTERS else (across, down)), size, resample)

    def in_full(self) -> Image.Image:
        """Every pixel, for a resampling that reads only some of them.

        Raises:
            ImageError: It is damaged.
        """
        return self._decoded(None)

    def _decoded(self, least: tuple[int, int] | None) -> Image.Image:
        """As RGB and upright; with at least so many pixels, as stored, where that is a smaller scale."""
        with damage(self.name):
            self.stream.seek(0)
            opened = JpegImageFile(self.stream)
            if least:
                opened.draft(None, least)
            opened.load()
        return upright(opened.convert("RGB") if opened.mode == "L" else opened, self.turn)
