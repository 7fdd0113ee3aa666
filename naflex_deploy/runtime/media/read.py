"""Read the frames of one input."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from PIL import Image

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.profile import ImageSection, Profile
from naflex_deploy.runtime.decode import Source, decode
from naflex_deploy.runtime.media.frame import Frame, mark_last

PLAUSIBLE = (50, 2400)
"""Pixels per inch that are believed: cameras and editors write any number."""


def read_frames(source: Source, *, name: str, profile: Profile, done: Collection[int] = ()) -> Iterator[Frame]:
    """The frames of one input, lazily, as far as they can be read: the last one may be an error.

    Args:
        source: See `decode`.
        name: Of the input in messages.
        profile: Its section image.
        done: Numbers of frames that are left out.
    """
    number = 0
    try:
        for frame in mark_last(_images(source, name, profile.image, done)):
            yield frame
            number = frame.number + 1
    except ImageError as error:
        yield Frame(number, last=True, error=error)


def _images(source: Source, name: str, image: ImageSection, done: Collection[int]) -> Iterator[Frame]:
    for number, picture in enumerate(decode(source, max_pixels=image.max_pixels, name=name)):
        if number not in done:
            yield Frame(number, picture, _dpi(picture))


def _dpi(image: Image.Image) -> float | None:
    """Pixels per inch as the file has it; ``None`` where it has none to believe, or two for its two sides."""
    across, down = (float(value) for value in image.info.get("dpi", (0, 0)))
    return across if PLAUSIBLE[0] <= across <= PLAUSIBLE[1] and abs(across - down) <= 0.01 * across else None
