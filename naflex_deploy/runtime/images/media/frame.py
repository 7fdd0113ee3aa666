"""One picture of an input, whatever the input is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image
from PIL.Image import Resampling

from naflex_deploy.core.errors import NaflexError


class Picture(Protocol):
    """Something that has pixels of any size: a Pillow image, or a page that is drawn when its size is known."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""

    def resize(self, size: tuple[int, int], resample: Resampling) -> Image.Image:
        """It as an RGB image of (width, height) ``size``."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A photo, a page, a slice, a frame of a clip.

    Attributes:
        number: Which of its input, from 0.
        picture: To be used before the next frame is asked for; ``None`` where there is an error.
        dpi: Pixels of the picture per inch, where the input says so.
        time: Of a frame of a clip, in seconds.
        last: No other follows.
        error: Why it cannot be read.
    """

    number: int
    picture: Picture | None = None
    dpi: float | None = None
    time: float | None = None
    last: bool = False
    error: NaflexError | None = None


def mark_last(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Frames whose end is not known before it is reached, the last one marked."""
    frame = next(frames, None)
    while frame is not None:
        try:
            following = next(frames, None)
        except NaflexError:
            yield frame
            raise
        yield replace(frame, last=following is None)
        frame = following
