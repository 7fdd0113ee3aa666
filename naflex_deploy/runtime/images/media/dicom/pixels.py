"""The stored values of DICOM frames, decoded by whatever decoder reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from naflex_deploy.core.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

_BY_PILLOW = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
"""JPEG and JPEG 2000, decoded by the same library whatever else is installed."""


def stored_values(
    stream: Any, header: Dataset, syntax: str, name: str, wanted: list[int]
) -> Iterator[npt.NDArray[Any]]:
    """The stored values of some frames, each [h, w] or [h, w, 3]."""
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    stream.seek(0)
    whole = not syntax or syntax == DeflatedExplicitVRLittleEndian or int(header.get("BitsAllocated", 0)) == 1
    if not whole:
        decoder = get_decoder(syntax)
        if not decoder.is_available:
            raise ImageError(
                f"{name}: no decoder for the transfer syntax {decoder.UID.name} is installed",
                hint="pip install 'naflex-deploy[dicom]', or save it uncompressed",
            )
        plugin = "pillow" if syntax in _BY_PILLOW and int(header.get("BitsStored", 8)) <= 8 else ""
        try:
            yield from _decoded(stream, wanted, plugin)
        except RuntimeError as error:  # every decoder gave up
            raise ImageError(
                f"{name}: no installed decoder reads these pixels of {decoder.UID.name}: "
                f"they are damaged, or of a kind that the decoders lack ({type(error).__name__})",
                hint="save it uncompressed, or replace the file",
            ) from None
        return
    # pydicom steps frame by frame neither through deflated files nor through single bits, and wants a transfer syntax.
    data = pydicom.dcmread(stream, force=True)
    if not syntax:
        implicit = data.original_encoding[0]
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    values = pixel_array(data)
    several = int(header.get("NumberOfFrames", None) or 1) > 1
    for number in wanted:
        yield values[number] if several else values


def _decoded(stream: Any, wanted: list[int], plugin: str) -> Iterator[npt.NDArray[Any]]:
    """Frames of a file, by a decoder of pydicom or by any. Where none reads the first, the file is read as a whole.

    pydicom fails to step through some files that it reads as a whole, such as those with an offset table that is empty.
    """
    import pydicom
    from pydicom.pixels.utils import iter_pixels

    failed: Exception | None = None
    for whole, decoder in dict.fromkeys([(False, plugin), (False, ""), (True, "")]):
        stream.seek(0)
        frames = iter_pixels(pydicom.dcmread(stream) if whole else stream, indices=wanted, decoding_plugin=decoder)
        try:
            first = next(frames, None)
        except Exception as error:
            failed = failed or error
            continue
        if first is not None:
            yield first
            yield from frames
        return
    assert failed is not None
    raise failed


def clip_of(data: Dataset) -> bytes:
    """The clip inside a data set of a syntax of MPEG."""
    from pydicom.encaps import generate_fragments

    return b"".join(generate_fragments(data.PixelData))
