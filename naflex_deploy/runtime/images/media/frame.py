"""One picture of an input, whatever the input is, with every decision that was taken on the way to its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from PIL import Image
from PIL.Image import Resampling

from naflex_deploy.core.errors import NaflexError


class Picture(Protocol):
    """Something that has pixels at any size: a Pillow image, or a page that is drawn once its size is known."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""

    def resize(self, size: tuple[int, int], resample: Resampling) -> Image.Image:
        """The picture as an RGB image of (width, height) ``size``."""


@dataclass(frozen=True)
class Decision:
    """One choice between what a file stores and what the model sees.

    Attributes:
        about: What was chosen.
        value: The choice and its reason, in a few words.
        warning: Whether a person should look at it, as the file leaves room for doubt.
    """

    about: Literal["orientation", "ratio", "range", "window", "colour", "level", "time", "reader"]
    value: str
    warning: bool = False


@dataclass(frozen=True, eq=False)
class Frame:
    """A photo, a page, a slice, a frame of a clip.

    Attributes:
        number: Position in its input, from 0.
        picture: Its pixels, valid until the next frame is asked for; ``None`` where there is an error.
        dpi: Pixels per inch of the picture once its pixels are square, where the input says so.
        aspect: Width of a stored pixel over its height. The fit brings the picture to square pixels in the same
            resampling that brings it to the patch grid.
        time: Of a frame of a clip, in seconds.
        spread: Frames that are taken of its clip, where they are spread evenly; 0 for any other frame.
        last: Whether it is the last frame of its input.
        error: Why it cannot be read.
        decisions: How its pixels came about, in the order of reading.
    """

    number: int
    picture: Picture | None = None
    dpi: float | None = None
    aspect: float = 1.0
    time: float | None = None
    spread: int = 0
    last: bool = False
    error: NaflexError | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) at which the picture has square pixels: its shorter-measured side is enlarged.

        Enlarging, as viewers do, loses no stored pixel.
        """
        if self.picture is None:
            return (0, 0)
        width, height = self.picture.size
        if self.aspect >= 1:
            return round(width * self.aspect), height
        return width, round(height / self.aspect)


def mark_last(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Frames whose end is not known before it is reached, the last one marked."""
    frame = next(frames, None)
    while frame is not None:
        try:
            following = next(frames, None)
        except Exception:
            yield frame
            raise
        yield replace(frame, last=following is None)
        frame = following
