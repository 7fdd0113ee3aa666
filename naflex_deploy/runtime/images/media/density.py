"""Pixel density and pixel aspect ratio as files state them, and which statements are believed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.media.frame import Decision

PLAUSIBLE_DPI = (50, 2400)
"""Pixels per inch that are believed: cameras and editors write any number."""

SQUARE = 0.01
"""Relative difference of the two sides below which a ratio is a rounding of 1."""

EXTREME = 4.0
"""The largest ratio that is believed, either way: anamorphic clips reach 2, fax pages 2.7."""


@dataclass(frozen=True)
class Density:
    """What a file says of its pixels' size.

    Attributes:
        across, down: Pixels per unit along a row and along a column, any unit, as the picture stands upright.
        inches: Whether the unit is the inch.
        said_by: Which element of the file says so.
        extreme: The largest ratio that is believed of it, either way.
    """

    across: float
    down: float
    inches: bool
    said_by: str
    extreme: float = EXTREME

    def turned(self) -> Density:
        """The same density of the picture turned by a quarter."""
        return replace(self, across=self.down, down=self.across)


def resolve(
    density: Density | None, image: ImageSection, name: str
) -> tuple[float, float | None, tuple[Decision, ...]]:
    """Pixel aspect ratio, dots per inch of the square picture, and what was decided.

    Returns:
        The width of a pixel over its height, 1 where the profile or the file wants square pixels; the density where
        it is plausible, else ``None``; a decision where the file says anything but 1:1.

    Raises:
        ImageError: The ratio is zero, infinite or negative, and the profile asks for it.
    """
    if density is None or (density.across == 0 and density.down == 0):
        return 1.0, None, ()
    aspect, decisions = _aspect(density, image, name)
    finest = max(density.across, density.down) if aspect != 1 else density.across
    believed = density.inches and PLAUSIBLE_DPI[0] <= finest <= PLAUSIBLE_DPI[1] and not _ignored(density, aspect)
    return aspect, finest if believed else None, decisions


def _ignored(density: Density, aspect: float) -> bool:
    """Whether the file has two densities of which neither can be meant."""
    return aspect == 1 and abs(density.across - density.down) > SQUARE * density.across


def _aspect(density: Density, image: ImageSection, name: str) -> tuple[float, tuple[Decision, ...]]:
    across, down = density.across, density.down
    said = f"{density.said_by} says {across:g} x {down:g}"
    overruled = f'square: image.pixel_aspect = "square" overrules that {said}'
    if not (math.isfinite(across) and math.isfinite(down) and across > 0 and down > 0):
        if image.pixel_aspect == "square":
            return 1.0, (Decision("ratio", overruled),)
        raise ImageError(
            f"{name}: expected pixels with a width and a height, found that {said}",
            hint='correct the metadata, or set image.pixel_aspect = "square" to ignore it',
        )
    ratio = down / across
    if abs(ratio - 1) <= SQUARE:
        return 1.0, ()
    if image.pixel_aspect == "square":
        return 1.0, (Decision("ratio", overruled),)
    if not 1 / density.extreme <= ratio <= density.extreme:
        return 1.0, (Decision("ratio", f"square: {said}, which is beyond {density.extreme:g} to 1", warning=True),)
    return ratio, (Decision("ratio", f"pixels are {ratio:.4g} times as wide as high: {said}"),)
