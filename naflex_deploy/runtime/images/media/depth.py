"""Map stored values of any depth to 8 bits: by what the file says, by the profile's range, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.profile.values import Range
from naflex_deploy.runtime.images.media.frame import Decision

_PART = 1 << 20
"""Values that are looked at or brought to 8 bits at once, as this takes up to 24 times the memory of the result."""

_NARROW = 1 / 16
"""Share of 16 bits below which a frame is probably that of a camera of fewer bits."""


@dataclass(frozen=True)
class Said:
    """The range that a file states for its values.

    Attributes:
        low, high: What becomes black and white.
        by: The element that says so.
        left: Whether values may also be shifted to the upper bits, as PNG demands and cameras ignore.
    """

    low: float
    high: float
    by: str
    left: bool = False


def to_eight_bits(
    values: npt.NDArray[Any], choice: Range, name: str, said: Said | None = None, missing: float | None = None
) -> tuple[npt.NDArray[np.uint8], Decision]:
    """Bring values of more than 8 bits, or of floating point, to 8.

    Args:
        values: [h, w] or [h, w, channels], integers or floats. NaN becomes black.
        choice: ``image.range`` of the profile.
        name: In messages.
        said: What the file states.
        missing: The value of pixels that hold nothing; they are no part of the frame's own range, and black in it.

    Returns:
        uint8 of the same shape, and the range with its reason.

    Raises:
        ImageError: Nothing says which range is meant.
    """
    absent = values == missing if choice == "frame" and missing is not None else np.False_
    if absent.any():
        low, high, reason = _range(values, choice, name, said, missing)
        shown = scale(values, low, high)
        shown[absent] = 0
        return shown, Decision("range", f"{low:g}..{high:g}: {reason}; {missing:g} stands for nothing: GDAL_NODATA")
    low, high, reason = _range(values, choice, name, said)
    warning = False
    if values.dtype.kind in "iu" and (low, high) == (0, 65535):
        span = int(values.max()) - int(values.min())
        warning = 0 < span < 65535 * _NARROW
        if warning:
            reason += f"; the frame uses only {values.min()}..{values.max()}, so image.range may have to be set"
    return scale(values, low, high), Decision("range", f"{low:g}..{high:g}: {reason}", warning)


def from_fractions(values: npt.NDArray[Any], name: str) -> tuple[npt.NDArray[np.uint8], Decision]:
    """Floats of which 0 is black and 1 is white, as uint8 of the same shape.

    Raises:
        ImageError: A value is beyond 0…1, or NaN.
    """
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ImageError(
            f"{name}: expected floating-point values in 0..1, found {low:g}..{high:g}",
            hint="divide by 255, or undo a model's normalisation; or set image.range = [low, high] for black and white",
        )
    return scale(values, 0, 1), Decision("range", "0..1: an array of floats")


def _range(
    values: npt.NDArray[Any], choice: Range, name: str, said: Said | None, missing: float | None = None
) -> tuple[float, float, str]:
    if isinstance(choice, tuple):
        return choice[0], choice[1], "image.range"
    if choice == "frame":
        extents = []
        for part in _parts(values):
            known = part[np.isfinite(part)] if part.dtype.kind == "f" else part
            known = known if missing is None else known[known != missing]
            extents += [(known.min(), known.max())] if known.size else []
        if not extents:
            raise ImageError(f"{name}: expected numbers, found NaN, infinity or nothing alone", hint="leave it out")
        lows, highs = zip(*extents, strict=True)
        return float(min(lows)), float(max(highs)), 'the frame\'s own, image.range = "frame"'
    if choice == "file" and said is not None and _holds(values, said):
        return said.low, said.high, said.by
    if values.dtype.kind == "f":
        raise ImageError(
            f"{name}: expected integer grey, RGB or CMYK pixels, found floating-point ones without a range",
            hint='set image.range = [low, high] to what shall be black and white, or "frame" for each frame\'s own',
        )
    if choice == "full" and values.dtype.itemsize <= 4:
        limits = np.iinfo(values.dtype)
        return limits.min, limits.max, f'all of {values.dtype}, image.range = "full"'
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(
            f"{name}: expected integer pixels in 0..65535 where the file states no range, found {low}..{high}",
            hint='set image.range = [low, high] to what shall be black and white, or "frame" for each frame\'s own',
        )
    return 0, 65535, "all of 16 bits"


def _holds(values: npt.NDArray[Any], said: Said) -> bool:
    """Whether values lie in the range that the file states.

    PNG wants the significant bits shifted to the top (PNG 3, 11.3.2.7); cameras write them at the bottom.
    """
    if int(values.max()) > said.high:
        return False
    spare = 16 - int(said.high).bit_length()
    return not said.left or not values.any() or any((part & ((1 << spare) - 1)).any() for part in _parts(values))


def scale(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Low … high to 0 … 255, rounded to nearest, what is beyond cut off. A single value splits below from above."""
    table = None
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        table = _scaled(np.arange(np.iinfo(values.dtype).max + 1, dtype=np.float64), low, high)
    shown = np.empty(values.size, np.uint8)
    for number, part in enumerate(_parts(values)):
        found = _scaled(part.astype(np.float64), low, high) if table is None else table[part]
        shown[number * _PART : number * _PART + len(part)] = found
    return shown.reshape(values.shape)


def _parts(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Values in their order, `_PART` of them at a time."""
    flat = values.reshape(-1)
    for start in range(0, len(flat), _PART):
        yield flat[start : start + _PART]


def _scaled(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.uint8]:
    if high <= low:
        return np.where(values > low, 255, 0).astype(np.uint8)
    known = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return np.rint((np.clip(known, low, high) - low) * (255 / (high - low))).astype(np.uint8)
