"""Stored values of DICOM pixels to 8 bits, as a viewer shows them (DICOM PS3.3 C.7.6.3 and C.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.profile.values import Window
from naflex_deploy.runtime.images.media.depth import scale
from naflex_deploy.runtime.images.media.frame import Decision

if TYPE_CHECKING:
    from pydicom import Dataset

Values = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Limits = tuple[float, float]

PRESETS: dict[str, Limits] = {"lung": (-600, 1500), "soft": (40, 400), "bone": (400, 1800)}
"""Centre and width in Hounsfield units."""


def show(
    pixels: npt.NDArray[Any], header: Dataset, window: Window = "file", limits: Limits | None = None
) -> tuple[Bytes, tuple[Decision, ...]]:
    """Stored values as they are meant to be seen: rescaled, windowed, inverted where low is white.

    Args:
        pixels: [h, w] or [h, w, 3] of any type.
        header: Of the frame.
        window: ``dicom.window`` of the profile.
        limits: Least and greatest value of all frames, for files without a window.

    Returns:
        [h, w] or [h, w, 3] uint8, and what was decided. Padding is black.
    """
    from pydicom.pixels.processing import apply_color_lut

    bits = int(header.get("BitsStored", 8))
    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels, bits = apply_color_lut(pixels, header), int(header.RedPaletteColorLookupTableDescriptor[2])
    if pixels.ndim == 3:
        return scale(pixels, 0, 2**bits - 1), ()
    padding = padded(pixels, header)
    if limits is None and needs_limits(header):
        limits = limits_of(pixels, header)
    stored, index = _each_once(pixels)
    shown, decision = _window(rescaled(stored, header), header, bits, window, limits or (0.0, 0.0))
    shown = shown if index is None else shown[index]
    decisions = [decision]
    if header.get("PresentationLUTShape", "") == "INVERSE" or header.PhotometricInterpretation == "MONOCHROME1":
        shown = 255 - shown
        decisions.append(Decision("colour", "inverted: low values are white"))
    if padding is not None and padding.any():
        shown = np.where(padding, np.uint8(0), shown)
        decisions.append(Decision("range", f"padding left out and black: {padding.mean():.0%} of the frame"))
    return shown, tuple(decisions)


def _each_once(pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32] | None]:
    """Every value from the least to the greatest of a frame, and where each pixel's stands among them.

    What is shown depends on the stored value alone, so it is computed once for each value rather than for each pixel.
    A frame with fewer pixels than values, or of other types than integers of 16 bits, comes back without an index.
    """
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2 or not pixels.size:
        return pixels, None
    least, greatest = int(pixels.min()), int(pixels.max())
    if greatest - least >= pixels.size:
        return pixels, None
    return np.arange(least, greatest + 1).astype(pixels.dtype), np.subtract(pixels, least, dtype=np.int32)


def needs_limits(header: Dataset) -> bool:
    """Whether a grey frame of this header has neither a window nor a table, and values of more than 8 bits."""
    if header.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        return False
    windowed = _first(header, "WindowCenter") is not None and _first(header, "WindowWidth") is not None
    return not windowed and not header.get("VOILUTSequence", None) and not _plain(header)


def limits_of(pixels: npt.NDArray[Any], header: Dataset) -> Limits | None:
    """Least and greatest rescaled value of a frame, padding left out; ``None`` where nothing else is there."""
    padding = padded(pixels, header)
    known = pixels if padding is None else pixels[~padding]
    if known.dtype.kind in "iu" and known.size and "ModalityLUTSequence" not in header:
        known = np.array([known.min(), known.max()])  # rescaling is linear, so the ends stay the ends
    values = rescaled(known, header)
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else None


def rescaled(pixels: npt.NDArray[Any], header: Dataset) -> Values:
    """Values in the units of the modality, such as Hounsfield units."""
    from pydicom.pixels.processing import apply_modality_lut

    return np.asarray(apply_modality_lut(pixels, header), np.float64)


def padded(pixels: npt.NDArray[Any], header: Dataset) -> npt.NDArray[np.bool_] | None:
    """Where stored values are padding, which is no part of the picture (DICOM PS3.3 C.7.5.1.1.2)."""
    value = header.get("PixelPaddingValue", None)
    if value is None:
        return None
    limit = header.get("PixelPaddingRangeLimit", None)
    ends = [_as_stored(int(end), pixels.dtype) for end in (value, value if limit is None else limit)]
    return np.asarray((pixels >= min(ends)) & (pixels <= max(ends)))


def _as_stored(value: int, dtype: np.dtype[Any]) -> int:
    """A value that was written without its sign."""
    return value - 65536 if dtype.kind == "i" and value > 32767 else value


def _plain(header: Dataset) -> bool:
    """Whether values of 8 bits are shown as they are: a slope of 1 with an intercept of 0 rescales nothing."""
    rescales = (float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))) != (1, 0)
    signed = bool(int(header.get("PixelRepresentation", 0)))
    return int(header.get("BitsStored", 32)) <= 8 and not rescales and not signed


def _window(
    values: Values,
    header: Dataset,
    bits: int,
    window: Window,
    limits: Limits,
) -> tuple[Bytes, Decision]:
    """That of the profile; else the first of the file (C.11.2.1.2), its table, or the range of the values."""
    warning = ""
    if isinstance(window, tuple):
        return _linear(values, *window), Decision("window", f"centre {window[0]:g}, width {window[1]:g}: dicom.window")
    if window != "file":
        if header.get("Modality", "") == "CT":
            centre, width = PRESETS[window]
            told = f"centre {centre:g}, width {width:g}: the preset {window!r} of dicom.window"
            return _linear(values, centre, width), Decision("window", told)
        warning = f"; the preset {window!r} of dicom.window is for CT and not applied"
    own_centre, own_width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if own_centre is not None and own_width is not None:
        function = str(header.get("VOILUTFunction", "LINEAR"))
        told = f"centre {own_centre:g}, width {own_width:g}, {function}: the file{warning}"
        decision = Decision("window", told, bool(warning))
        match function:
            case "SIGMOID":
                return scale(1 / (1 + np.exp(-4 * (values - own_centre) / own_width)), 0, 1), decision
            case "LINEAR_EXACT":
                return scale(values, own_centre - own_width / 2, own_centre + own_width / 2), decision
        return _linear(values, own_centre, own_width), decision
    if header.get("VOILUTSequence", None):
        return _by_table(values, header.VOILUTSequence[0]), Decision(
            "window", f"a table of the file{warning}", bool(warning)
        )
    if _plain(header):
        return scale(values, 0, 2**bits - 1), Decision(
            "range", f"0..{2**bits - 1}: {bits} bits as stored{warning}", bool(warning)
        )
    told = f"{limits[0]:g}..{limits[1]:g}: least to greatest{warning}"
    return scale(values, *limits), Decision("range", told, bool(warning))


def _linear(values: Values, centre: float, width: float) -> Bytes:
    """DICOM PS3.3 C.11.2.1.2.1."""
    return scale(values, centre - width / 2, centre + width / 2 - 1)


def _by_table(values: Values, item: Dataset) -> Bytes:
    """By a table of values of interest, whose greatest entry is white, whatever bits it claims."""
    count, first = int(item.LUTDescriptor[0]) or 65536, int(item.LUTDescriptor[1])
    data = item.LUTData
    if isinstance(data, bytes):
        table = np.frombuffer(data, "<u2" if len(data) >= 2 * count else np.uint8)[:count]
    else:
        table = np.atleast_1d(np.asarray(data, np.int64))[:count]
    if first > 32767 and values.min() < 0:
        first -= 65536
    entries = table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)]
    return scale(entries.astype(np.float64), 0, float(table.max()))


def _first(header: Dataset, element: str) -> float | None:
    """The first value of an element that may have several, or none."""
    value = header.get(element, None)
    return None if value is None or value == "" or not np.size(value) else float(np.ravel(value)[0])
