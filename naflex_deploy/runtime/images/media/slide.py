"""Whole-slide images of formats that are not TIFF files Pillow reads, by OpenSlide."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.Image import Resampling

from naflex_deploy.core.errors import ImageError, needs_extra
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.media.frame import Decision, Frame
from naflex_deploy.runtime.images.source import check_size, damage

_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif")
_MICROMETRES = 25_400
"""In an inch."""


@dataclass(frozen=True, eq=False)
class Slide:
    """A slide that is read when its size is known, from the smallest level that has enough pixels.

    Attributes:
        opened: By OpenSlide.
        size: (width, height) of its largest level.
        name: In messages.
        max_pixels: The most that may be read at once.
    """

    opened: Any
    size: tuple[int, int]
    name: str
    max_pixels: int

    def resize(self, size: tuple[int, int], resample: Resampling) -> Image.Image:
        """The whole slide as RGB, over white, at (width, height) ``size``.

        Raises:
            ImageError: No level between that size and ``max_pixels`` can be read.
        """
        check_size(*size, self.name, self.max_pixels)
        levels = [(int(width), int(height)) for width, height in self.opened.level_dimensions]
        enough = [number for number, (width, _) in enumerate(levels) if width >= size[0]]
        level = enough[-1] if enough else 0
        while level + 1 < len(levels) and levels[level][0] * levels[level][1] > self.max_pixels:
            level += 1
        check_size(*levels[level], self.name, self.max_pixels)
        with damage(self.name):
            region = self.opened.read_region((0, 0), level, levels[level])
            over_white = Image.alpha_composite(Image.new("RGBA", region.size, "white"), region).convert("RGB")
        return over_white.resize((size[0], over_white.height), resample).resize(size, resample)


def is_slide(start: bytes, name: str) -> bool:
    """Whether OpenSlide is to read a file, which its name tells: most are TIFF files inside.

    Those that are go to the TIFF reader where OpenSlide is not installed.
    """
    tiff = start.startswith((b"II", b"MM"))
    return bool(start) and name.lower().endswith(_SUFFIXES) and not (tiff and find_spec("openslide") is None)


def read_slide(source: Path | bytes, *, name: str, image: ImageSection, done: Collection[int] = ()) -> Iterator[Frame]:
    """The slide as one frame. ``image.dpi`` is 25 400 over the microns per pixel at which tiles are wanted.

    Raises:
        ImageError: It is of an unknown vendor, or damaged.
        MissingExtraError: openslide-python is not installed.
    """
    if 0 in done:
        return
    with needs_extra("wsi"):
        import openslide
    path = Path(name) if isinstance(source, bytes) else source
    if not path.is_file():
        raise ImageError(f"{name}: slides are read from files, as some have more than one", hint="unpack it")
    try:
        opened = openslide.OpenSlide(str(path))
    except openslide.OpenSlideUnsupportedFormatError:
        raise ImageError(f"{name}: expected a slide, found one of an unknown vendor", hint="save it as TIFF") from None
    except (openslide.OpenSlideError, OSError) as error:
        raise ImageError(f"{name}: damaged slide: {' '.join(str(error).split())}", hint="replace the file") from None
    try:
        microns = opened.properties.get(openslide.PROPERTY_NAME_MPP_X)
        dpi = _MICROMETRES / float(microns) if microns and float(microns) > 0 else None
        told = Decision("level", f"of {len(opened.level_dimensions)}, the smallest with enough pixels; {microns} µm")
        yield Frame(0, Slide(opened, opened.dimensions, name, image.max_pixels), dpi=dpi, last=True, decisions=(told,))
    finally:
        opened.close()
