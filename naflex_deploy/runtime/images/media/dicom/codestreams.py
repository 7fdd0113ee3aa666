"""Sizes that compressed frames of DICOM files state, compared with those of their header before they are decoded.

Decoders believe the compressed data: a damaged one may claim gigabytes, or send a parser round in circles.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from naflex_deploy.core.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

_JPEG_2000, _JPEG = b"\xff\x4f\xff\x51", b"\xff\xd8"
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG (T.81, table B.1) and JPEG-LS (T.87, C.1.1) after which the size stands."""

_ENCAPSULATED = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
"""The element of pixel data, of a length that is not known (DICOM PS3.5 A.4)."""

_MOST_INFLATED = 1 << 29
"""Bytes of a deflated file."""


def check_codestreams(stream: Any, header: Dataset, name: str) -> None:
    """Refuse compressed frames whose size is another than that of the header.

    Args:
        stream: Of the file, where its pixel data begin. Frames of other codecs than JPEG, JPEG-LS and JPEG 2000 are not
            looked at.
        header: Of the file.
        name: Of the file in messages.

    Raises:
        ImageError: A frame has another size.
    """
    from pydicom.encaps import generate_frames

    if stream.read(12) != _ENCAPSULATED:
        return  # not compressed, or damaged, which decoding it says
    expected = (int(header.Columns), int(header.Rows))
    count = int(header.get("NumberOfFrames", None) or 1)
    for number, content in enumerate(generate_frames(stream, number_of_frames=count)):
        found = _size(content)
        if found is not None and found != expected:
            raise ImageError(
                f"{name}: expected {expected[0]}x{expected[1]} pixels in frame {number + 1}, "
                f"found {found[0]}x{found[1]} in its compressed data",
                hint="replace the file",
            )


def _size(content: bytes) -> tuple[int, int] | None:
    """(width, height) of a codestream; ``None`` where it is of another kind, or does not say."""
    if content.startswith(b"\0\0\0\x0cjP  "):
        content = _after_boxes(content)
    if content.startswith(_JPEG_2000):
        right, bottom, left, top = (int.from_bytes(content[at : at + 4], "big") for at in (8, 12, 16, 20))
        return right - left, bottom - top
    return _jpeg_size(content) if content.startswith(_JPEG) else None


def _after_boxes(content: bytes) -> bytes:
    """The codestream in a JP2 file.

    Raises:
        ValueError: There is none.
    """
    place = 12
    while place + 8 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] == b"jp2c":
            return content[place + 8 :]
        if length < 8:
            break
        place += length
    raise ValueError("its JPEG 2000 boxes are damaged")


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    place = 2
    while content[place : place + 1] == b"\xff" and place + 9 <= len(content):
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in _FRAMES:
            if not 2 <= content[place + 4] <= 16:
                raise ValueError(f"{content[place + 4]} bits a sample")  # over which GDCM crashes
            height, width = (int.from_bytes(content[at : at + 2], "big") for at in (place + 5, place + 7))
            return (width, height) if height else None  # which a later segment states
        else:
            place += 2 + max(2, int.from_bytes(content[place + 2 : place + 4], "big"))
    return None


def check_inflated(stream: Any, name: str) -> None:
    """Refuse a deflated file that would fill the memory: pydicom inflates all of it before it reads anything.

    Raises:
        ImageError: It would.
    """
    stream.seek(0)
    start = stream.read(144)
    if start[128:132] != b"DICM" or start[132:136] != b"\2\0\0\0":
        return
    meta = int.from_bytes(start[140:144], "little")
    stream.seek(144)
    if b"1.2.840.10008.1.2.1.99" not in stream.read(min(meta, 1 << 16)):
        return
    stream.seek(144 + meta)
    inflater, found = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while (part := inflater.unconsumed_tail or stream.read(1 << 20)) and not inflater.eof:
        found += len(inflater.decompress(part, 1 << 24))
        if found > _MOST_INFLATED:
            raise ImageError(
                f"{name}: expected at most {_MOST_INFLATED} bytes once inflated, found more",
                hint="save it uncompressed",
            )
