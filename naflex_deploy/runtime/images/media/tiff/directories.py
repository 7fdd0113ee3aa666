"""The directories of a TIFF file, and which of them are pages.

Pillow counts every directory as a frame, and stops at a mask, so that thumbnails, overviews, labels and masks become
pages and real pages after them are out of reach. Here the chain is walked by its tags alone (TIFF 6.0, section 2; the
BigTIFF design of 2007), which decodes nothing.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field, replace
from typing import IO, Any

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
DESCRIPTION, ORIENTATION, SAMPLES, MAX_VALUE, X_RESOLUTION, Y_RESOLUTION = 270, 274, 277, 281, 282, 283
PLANAR, UNIT, TILE_WIDTH, SUB_DIRECTORIES, EXTRA_SAMPLES, FORMAT = 284, 296, 322, 330, 338, 339
NODATA = 42113
_WANTED = {SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, ORIENTATION, SAMPLES}
_WANTED |= {MAX_VALUE, X_RESOLUTION, Y_RESOLUTION, PLANAR, UNIT, TILE_WIDTH, SUB_DIRECTORIES, EXTRA_SAMPLES, FORMAT}
_WANTED |= {NODATA}
MASK, CFA = 4, 32803
"""Photometric interpretations of what is no picture: a transparency mask, raw values of a camera's sensor."""

_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I"}
_TYPES |= {16: "Q", 18: "Q"}
_MOST = 65_536
"""Directories of a file, and bytes of a value."""


@dataclass(frozen=True)
class Directory:
    """The tags of one image of a file.

    Attributes:
        offset: Where it lies in the file.
        tags: Values by tag; text as bytes, rationals as floats.
        subs: Those that its tag 330 names.
    """

    offset: int
    tags: dict[int, tuple[float, ...] | bytes]
    subs: tuple[Directory, ...] = ()

    def number(self, tag: int, default: int = 0) -> int:
        """The first value of a tag."""
        value = self.tags.get(tag)
        return int(value[0]) if value else default

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as stored."""
        return self.number(WIDTH), self.number(HEIGHT)

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def is_reduced(self) -> bool:
        """Whether it is a smaller copy of another image, such as a thumbnail, a level of a pyramid, a label."""
        return bool(self.number(SUBFILE) & 1) or self.number(OLD_SUBFILE) == 2

    @property
    def is_mask(self) -> bool:
        return bool(self.number(SUBFILE) & 4) or self.number(PHOTOMETRIC, -1) == MASK

    @property
    def description(self) -> str:
        value = self.tags.get(DESCRIPTION, b"")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""

    @property
    def missing(self) -> float | None:
        """The value of pixels that hold nothing, where GDAL states one."""
        value = self.tags.get(NODATA)
        try:
            return float(value.rstrip(b"\0")) if isinstance(value, bytes) else None
        except ValueError:
            return None


@dataclass(frozen=True)
class Page:
    """An image that a person would call one, and its smaller copies.

    Attributes:
        full: The image.
        levels: Copies of the same aspect ratio, largest first.
        preview: Whether ``full`` stands for raw sensor values that no reader here develops.
    """

    full: Directory
    levels: tuple[Directory, ...] = ()
    preview: bool = False

    def within(self, max_pixels: int) -> Directory:
        """The largest of image and copies that has at most so many pixels; the image where none has."""
        return next((level for level in (self.full, *self.levels) if level.area <= max_pixels), self.full)


@dataclass(frozen=True)
class Chain:
    """All directories of a file.

    Attributes:
        pages: In the order of the file.
        damaged: What is wrong behind them, empty where nothing is.
        first: Offset of the first directory, as the header has it.
        big: Whether it is a BigTIFF.
        order: Byte order as `struct` writes it.
    """

    pages: tuple[Page, ...]
    damaged: str = ""
    first: int = 0
    big: bool = False
    order: str = field(default="<", repr=False)

    def header(self, offset: int) -> bytes:
        """The header of a file of which the first directory lies at ``offset``."""
        mark = b"II" if self.order == "<" else b"MM"
        if self.big:
            return mark + struct.pack(f"{self.order}HHHQ", 43, 8, 0, offset)
        return mark + struct.pack(f"{self.order}HI", 42, offset)


def read_chain(stream: IO[bytes], *, pictures: int = _MOST) -> Chain:
    """Walk the directories of a file whose first bytes are those of a TIFF. Leaves the stream where it was.

    Args:
        stream: The file.
        pictures: Number of directories of whole pictures after which to stop.

    Raises:
        ValueError, struct.error: There is not even a first directory.
    """
    place = stream.tell()
    reader = _Reader(stream)
    found: list[Directory] = []
    seen: set[int] = set()
    damaged, offset = "", reader.first
    whole = 0
    while offset and not damaged and whole < pictures:
        if offset in seen or len(seen) >= _MOST:
            damaged = "its directories form a loop" if offset in seen else f"more than {_MOST} directories"
            break
        seen.add(offset)
        try:
            directory, offset = reader.directory(offset)
            found.append(_with_subs(reader, directory, seen))
            whole += not (directory.is_mask or directory.is_reduced)
        except (ValueError, struct.error, OverflowError) as error:
            damaged = " ".join(str(error).split())
    stream.seek(place)
    if not found:
        raise ValueError(damaged or "it has no directory")
    return Chain(_pages(found), damaged, reader.first, reader.big, reader.order)


def _with_subs(reader: _Reader, directory: Directory, seen: set[int]) -> Directory:
    subs = []
    offsets = directory.tags.get(SUB_DIRECTORIES, ())
    for offset in offsets if isinstance(offsets, tuple) else ():
        if offset and int(offset) not in seen and len(seen) < _MOST:
            seen.add(int(offset))
            subs.append(reader.directory(int(offset))[0])
    return replace(directory, subs=tuple(subs))


def _pages(found: list[Directory]) -> tuple[Page, ...]:
    """The images a person would call pages, each with the reduced copies that follow it or that it names."""
    if found[0].description.startswith("Aperio"):  # levels and thumbnail are not marked as reduced
        return (_page(found[0], [item for item in found[1:] if TILE_WIDTH in item.tags]),)
    pictures = [item for item in found if not item.is_mask]
    full = [item for item in pictures if not item.is_reduced]
    full = [item for item in full if not item.is_mask]
    if not full:
        holders = [item for item in pictures if item.subs]
        if holders:
            return tuple(_raw_or_sub(item) for item in holders)
        return (_page(max(pictures or found, key=lambda item: item.area), []),)
    pages = []
    for index, item in enumerate(pictures):
        if item.is_reduced:
            continue
        copies: list[Directory] = []
        for follower in pictures[index + 1 :]:
            if not follower.is_reduced:
                break
            copies.append(follower)
        pages.append(_page(item, [*copies, *(sub for sub in item.subs if not sub.is_mask)]))
    return tuple(pages)


def _page(full: Directory, others: list[Directory]) -> Page:
    width, height = full.size
    levels = [
        item
        for item in others
        if 0 < item.area < full.area and abs(item.size[0] * height - item.size[1] * width) <= 2 * max(width, height)
    ]
    return Page(full, tuple(sorted(levels, key=lambda item: -item.area)))


def _raw_or_sub(holder: Directory) -> Page:
    """The picture of a directory that is itself only a thumbnail, as in DNG: its largest sub-directory.

    Where that holds raw sensor values, the largest preview stands for it, as in a viewer.
    """
    subs = sorted((sub for sub in holder.subs if not sub.is_mask), key=lambda item: -item.area)
    if not subs:
        return Page(holder)
    if subs[0].number(PHOTOMETRIC) != CFA:
        return _page(subs[0], subs[1:])
    previews = [item for item in (*subs, holder) if item.number(PHOTOMETRIC) != CFA]
    best = max(previews, key=lambda item: item.area)
    return Page(replace(best, tags={**best.tags, ORIENTATION: holder.tags.get(ORIENTATION, (1,))}), preview=True)


class _Reader:
    """Reads numbers of a file in its own byte order."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        start = self._bytes(0, 16, short=True)
        self.order = "<" if start[:2] == b"II" else ">"
        self.big = start[2:4] in (b"+\0", b"\0+")
        (self.first,) = struct.unpack_from(f"{self.order}{'Q' if self.big else 'I'}", start, 8 if self.big else 4)

    def _bytes(self, offset: int, count: int, *, short: bool = False) -> bytes:
        self._stream.seek(offset)
        content = self._stream.read(count)
        if len(content) < count and not short:
            raise ValueError(f"it ends at byte {offset + len(content)} inside a directory")
        return content

    def directory(self, offset: int) -> tuple[Directory, int]:
        """The directory at an offset, and the offset of the next one."""
        head, entry, link = ("Q", 20, "Q") if self.big else ("H", 12, "I")
        (count,) = struct.unpack(self.order + head, self._bytes(offset, struct.calcsize(head)))
        if count > 4096:
            raise ValueError(f"a directory claims {count} entries")
        body = self._bytes(offset + struct.calcsize(head), count * entry)
        tags: dict[int, tuple[float, ...] | bytes] = {}
        for index in range(count):
            item = body[index * entry : (index + 1) * entry]
            tag, kind = struct.unpack_from(f"{self.order}HH", item)
            if tag in _WANTED and kind in _TYPES:
                tags[tag] = self._value(kind, item)
        following = self._bytes(offset + struct.calcsize(head) + count * entry, struct.calcsize(link), short=True)
        after = struct.unpack(self.order + link, following)[0] if len(following) == struct.calcsize(link) else 0
        return Directory(offset, tags), after

    def _value(self, kind: int, item: bytes) -> tuple[float, ...] | bytes:
        (count,) = struct.unpack_from(f"{self.order}{'Q' if self.big else 'I'}", item, 4)
        letters = _TYPES[kind]
        size = count * struct.calcsize(f"={letters}")
        place, room = (12, 8) if self.big else (8, 4)
        if size > _MOST * 16:
            raise ValueError(f"a value of {size} bytes")
        if size <= room:
            content = item[place : place + size]
        else:
            (offset,) = struct.unpack_from(f"{self.order}{'Q' if self.big else 'I'}", item, place)
            content = self._bytes(offset, size)
        if kind == 2:
            return content.rstrip(b"\0")
        values: tuple[Any, ...] = struct.unpack(f"{self.order}{letters * count}", content)
        if len(letters) == 2:
            return tuple(_ratio(top, bottom) for top, bottom in zip(values[::2], values[1::2], strict=True))
        return values


def _ratio(top: float, bottom: float) -> float:
    """A rational as a float; nothing over nothing is 0, as programs write it for "not known"."""
    return top / bottom if bottom else math.copysign(math.inf, top) if top else 0.0


def significant_bits(description: str) -> int | None:
    """``SignificantBits`` of the OME metadata that microscopes put into the description of the first page."""
    found = re.search(r'SignificantBits="(\d+)"', description) if "<OME" in description else None
    return int(found[1]) if found else None
