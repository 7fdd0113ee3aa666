"""Frames of DICOM files as a viewer shows them. Elements that name a patient are never read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from naflex_deploy.core.errors import ImageError, MissingExtraError, needs_extra
from naflex_deploy.core.profile import ImageSection, VideoSection
from naflex_deploy.core.profile.values import Window
from naflex_deploy.runtime.images.media import density
from naflex_deploy.runtime.images.media.dicom.codestreams import check_codestreams, check_inflated
from naflex_deploy.runtime.images.media.dicom.pixels import clip_of, stored_values
from naflex_deploy.runtime.images.media.dicom.values import Limits, limits_of, needs_limits, show
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.video import read_video
from naflex_deploy.runtime.images.source import check_size

if TYPE_CHECKING:
    from pydicom import Dataset

PYDICOM = "pydicom.pixels.utils"
"""The module that imports all of pydicom that is needed here."""

_COLOURS = ("Red", "Green", "Blue")
ELEMENTS = [
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelSpacing",
    "PixelAspectRatio",
    "ImagerPixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "PresentationLUTShape",
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in _COLOURS),
    *(f"{colour}PaletteColorLookupTableData" for colour in _COLOURS),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in _COLOURS),
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
"""All that is read of a file besides its pixels."""

_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")
"""Where enhanced multi-frame files keep rescale, window and spacing, for all frames or for each."""

_MPEG = "1.2.840.10008.1.2.4.1"
"""Transfer syntaxes that begin so and have 00 to 08 after it hold a clip."""

_CHECKED = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93))
"""JPEG, JPEG-LS and JPEG 2000."""


def is_dicom(start: bytes) -> bool:
    """Whether a file with these first bytes is DICOM: by its preamble, or by a data set that begins at once.

    Some archives and planning systems leave preamble and file meta information out.
    """
    if start[128:132] == b"DICM":
        return True
    if len(start) < 12 or start[:2] not in (b"\x02\0", b"\x08\0"):
        return False
    element, kind = int.from_bytes(start[2:4], "little"), start[4:6]
    explicit = kind in (b"UL", b"CS", b"UI", b"DA", b"TM", b"OB", b"LO", b"SH", b"DT")
    return element in (0x0000, 0x0001, 0x0002, 0x0005, 0x0008, 0x0012, 0x0016, 0x0018) and (
        explicit or int.from_bytes(start[4:8], "little") <= 128
    )


def read_dicom(
    source: Path | bytes,
    *,
    name: str,
    image: ImageSection,
    video: VideoSection = VideoSection(),  # noqa: B008  # frozen
    window: Window = "file",
    done: Collection[int] = (),
) -> Iterator[Frame]:
    """The frames of a file as 8-bit RGB: rescaled, windowed, padding black, low values white where it says so.

    Without a window, 8-bit values stay as they are, and others are spread from the least to the greatest of the file.

    Args:
        source: Path, or content.
        name: In messages.
        image, video: Of the profile; the latter for clips inside DICOM.
        window: ``dicom.window`` of the profile.
        done: Numbers of frames that are left out.

    Raises:
        ImageError: It is damaged, has no pixels, or some that cannot be decoded. What pydicom says of it is left out,
            as that may quote the file.
        MissingExtraError: pydicom is not installed.
    """
    with needs_extra("dicom"):
        import pydicom
    try:
        with _open(source) as stream:
            check_inflated(stream, name)
            stream.seek(0)
            header = pydicom.dcmread(stream, specific_tags=ELEMENTS, stop_before_pixels=True, force=True)
            _check(header, name, image)
            place = stream.tell()
            syntax = str(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""
            if syntax.startswith(_MPEG) and "00" <= syntax[len(_MPEG) : len(_MPEG) + 2] <= "08":
                stream.seek(0)
                yield from read_video(clip_of(pydicom.dcmread(stream)), name=name, image=image, video=video, done=done)
                return
            if syntax in _CHECKED:
                stream.seek(place)
                check_codestreams(stream, header, name)
            yield from _frames(stream, header, syntax, name, image, window, done)
    except (ImageError, MissingExtraError):
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file", hint="check the path") from None
    except Exception as error:
        raise ImageError(
            f"{name}: the pixels are missing or damaged ({type(error).__name__})", hint="replace the file"
        ) from None


def _open(source: Path | bytes) -> Any:
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _check(header: Dataset, name: str, image: ImageSection) -> None:
    """Refuse what cannot be shown rightly, before pixels are decoded."""
    if "Rows" not in header:
        raise ImageError(f"{name}: expected pixels, found a DICOM file without any", hint="leave it out")
    check_size(int(header.Columns), int(header.Rows), name, image.max_pixels)
    stored, allocated = header.get("BitsStored", None), header.get("BitsAllocated", None)
    if stored is None or allocated is None:
        return
    if not 1 <= int(stored) <= int(allocated):
        raise ImageError(f"{name}: {stored} bits stored in {allocated} allocated", hint="correct the file")
    high = header.get("HighBit", None)
    if high is not None and int(high) != int(stored) - 1:
        raise ImageError(
            f"{name}: expected the highest bit to be {int(stored) - 1} with {stored} bits stored, found {high}",
            hint="shift the values to the lowest bits",
        )


def _frames(
    stream: Any, header: Dataset, syntax: str, name: str, image: ImageSection, window: Window, done: Collection[int]
) -> Iterator[Frame]:
    count = int(header.get("NumberOfFrames", None) or 1)
    wanted = [number for number in range(count) if number not in done]
    limits: Limits | None = None
    if count > 1 and window == "file" and needs_limits(_describe(header, 0)):
        found = [
            limits_of(pixels, _describe(header, number))
            for number, pixels in enumerate(stored_values(stream, header, syntax, name, list(range(count))))
        ]
        known = [item for item in found if item is not None]
        limits = (min(low for low, _ in known), max(high for _, high in known)) if known else None
    spaced = image.pixel_aspect == "file" and _is_stretched(header, count)
    for number, pixels in zip(wanted, stored_values(stream, header, syntax, name, wanted), strict=True):
        described, last = _describe(header, number), number == count - 1
        frame_name = name if count == 1 else f"{name}, frame {number + 1}"
        try:
            spacing = _spacing(described)
            if spaced and spacing is None:
                raise ImageError(
                    f"{frame_name}: expected a pixel spacing, as other frames have one, found none",
                    hint='correct the metadata, or set image.pixel_aspect = "square" to ignore it',
                )
            aspect, _, ratio = density.resolve(spacing, image, frame_name)
            shown, decisions = show(pixels, described, window, limits)
            picture = Image.fromarray(shown).convert("RGB")
            yield Frame(number, picture, aspect=aspect, last=last, decisions=(*decisions, *ratio))
        except ImageError as error:
            yield Frame(number, last=last, error=error)


def _is_stretched(header: Dataset, count: int) -> bool:
    """Whether frames have spacings of their own, one of which says that its pixels are not square."""
    if count == 1 or "PerFrameFunctionalGroupsSequence" not in header:
        return False
    spacings = (_spacing(_describe(header, number)) for number in range(count))
    return any(spacing is not None and spacing.across != spacing.down for spacing in spacings)


def _describe(header: Dataset, number: int) -> Dataset:
    """What holds for one frame: the elements of the file, and over them those of its functional groups."""
    found = header.group_dataset(0x0028)
    for element in ("Modality", "ImagerPixelSpacing", "PresentationLUTShape"):
        if element in header:
            found[element] = header[element]
    shared = list(header.get("SharedFunctionalGroupsSequence", None) or [])
    own = list(header.get("PerFrameFunctionalGroupsSequence", None) or [])
    for group in (*shared[:1], *own[number : number + 1]):
        for sequence in _GROUPS:
            for item in group.get(sequence, None) or []:
                found.update(item)
    return found


def _spacing(header: Dataset) -> density.Density | None:
    """The distances between pixels (DICOM PS3.3 10.7.1.3): rows first, columns then, as in PixelAspectRatio.

    Pixels along a row are as many per millimetre as the distance between columns is small, so the ratio of the two
    distances, exchanged, is that of the densities.
    """
    for element in ("PixelSpacing", "PixelAspectRatio", "ImagerPixelSpacing"):
        value = header.get(element, None)
        if value is not None and np.size(value) == 2:
            rows, columns = (float(side) for side in value)
            return density.Density(rows, columns, False, element)
    return None
