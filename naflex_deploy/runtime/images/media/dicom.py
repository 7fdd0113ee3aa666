"""Slices of DICOM files as a viewer shows them. Elements that name a patient are never read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from naflex_deploy.core.errors import ImageError, needs_extra
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.source import check_size

if TYPE_CHECKING:
    from pydicom import Dataset

Values = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

ELEMENTS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
"""All that is read of a file besides its pixels."""

GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
"""Where enhanced multi-frame files keep rescale and window, for all frames or for each."""


def read_dicom(source: Path | bytes, *, name: str, image: ImageSection, done: Collection[int] = ()) -> Iterator[Frame]:
    """The frames of a file as 8-bit RGB: rescaled, windowed, MONOCHROME1 inverted.

    Without a window, 8-bit values stay as they are, and others are spread from the least to the greatest of the frame.

    Args:
        source: Path, or content.
        name: In messages.
        image: Of the profile.
        done: Numbers of frames that are left out.

    Raises:
        ImageError: It is damaged, has no pixels, or some that cannot be decoded. What pydicom says of it is left out,
            as that may quote the file.
        MissingExtraError: pydicom is not installed.
    """
    with needs_extra("dicom"):
        import pydicom
        from pydicom.pixels.utils import iter_pixels
    try:
        with _open(source) as stream:
            header = pydicom.dcmread(stream, specific_tags=ELEMENTS, stop_before_pixels=True)
            if "Rows" not in header:
                raise ImageError(f"{name}: expected pixels, found a DICOM file without any", hint="leave it out")
            check_size(int(header.Columns), int(header.Rows), name, image.max_pixels)
            count = int(header.get("NumberOfFrames", None) or 1)
            wanted = [number for number in range(count) if number not in done]
            stream.seek(0)
            for number, pixels in zip(wanted, iter_pixels(stream, indices=wanted), strict=True):
                shown = show(pixels, _describe(header, number))
                yield Frame(number, Image.fromarray(shown).convert("RGB"), last=number == count - 1)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file", hint="check the path") from None
    except Exception as error:
        raise ImageError(
            f"{name}: pixels that are missing, damaged, or in a transfer syntax that cannot be decoded "
            f"({type(error).__name__})",
            hint="replace the file, or install pydicom's decoders: pip install 'pylibjpeg[all]'",
        ) from None


def _open(source: Path | bytes) -> Any:
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _describe(header: Dataset, number: int) -> Dataset:
    """What holds for one frame: the elements of the file, and over them those of its functional groups."""
    found = header.group_dataset(0x0028)
    shared = list(header.get("SharedFunctionalGroupsSequence", None) or [])
    own = list(header.get("PerFrameFunctionalGroupsSequence", None) or [])
    for group in (*shared[:1], *own[number : number + 1]):
        for sequence in GROUPS:
            for item in group.get(sequence, None) or []:
                found.update(item)
    return found


def show(pixels: npt.NDArray[Any], header: Dataset) -> Bytes:
    """Stored values as they are meant to be seen.

    Args:
        pixels: [h, w] or [h, w, 3] of any type.
        header: Of the frame.

    Returns:
        [h, w] or [h, w, 3] uint8.
    """
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    interpretation = header.PhotometricInterpretation
    bits = int(header.get("BitsStored", 8))
    if interpretation == "PALETTE COLOR":
        pixels, bits = apply_color_lut(pixels, header), int(header.RedPaletteColorLookupTableDescriptor[2])
    if pixels.ndim == 3:
        return _scale(pixels.astype(np.float64), 0, 2**bits - 1)
    values: Values = np.asarray(apply_modality_lut(pixels, header), np.float64)
    shown = _window(values, header, bits)
    return 255 - shown if interpretation == "MONOCHROME1" else shown


def _window(values: Values, header: Dataset, bits: int) -> Bytes:
    """The first window of the file (DICOM PS3.3 C.11.2.1.2), or its table, or the range of the values."""
    from pydicom.pixels.processing import apply_voi

    centre, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if centre is not None and width is not None:
        match str(header.get("VOILUTFunction", "LINEAR")):
            case "SIGMOID":
                return _scale(1 / (1 + np.exp(-4 * (values - centre) / width)), 0, 1)
            case "LINEAR_EXACT":
                return _scale(values, centre - width / 2, centre + width / 2)
        return _scale(values, centre - width / 2, centre + width / 2 - 1)
    if header.get("VOILUTSequence", None):
        table = header.VOILUTSequence[0]
        return _scale(apply_voi(values.astype(np.int64), header).astype(np.float64), 0, 2 ** table.LUTDescriptor[2] - 1)
    if bits <= 8 and "RescaleSlope" not in header and not int(header.get("PixelRepresentation", 0)):
        return _scale(values, 0, 2**bits - 1)
    return _scale(values, float(values.min()), float(values.max()))


def _first(header: Dataset, element: str) -> float | None:
    """Of an element that may have several values, or none."""
    value = header.get(element, None)
    return None if value is None or value == "" else float(np.ravel(value)[0])


def _scale(values: Values, low: float, high: float) -> Bytes:
    """Low … high to 0 … 255, what is beyond cut off; a single value splits below from above."""
    if high <= low:
        return np.where(values > low, 255, 0).astype(np.uint8)
    return np.rint((np.clip(values, low, high) - low) * (255 / (high - low))).astype(np.uint8)
