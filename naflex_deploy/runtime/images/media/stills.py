"""Still images that Pillow reads: the format is told by the first bytes, and the picture comes out upright, as RGB.

Pillow's process-wide settings stay untouched: the reader of each format is called directly, as ``Image.open`` would
apply ``Image.MAX_IMAGE_PIXELS`` of the process besides the caller's limit. Only some readers have that check inside:
above twice ``MAX_IMAGE_PIXELS`` it is an ImageError that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import IO

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.media import density
from naflex_deploy.runtime.images.media.colours import PLAIN, QUARTERS, Stored, orientation, to_rgb, turn_of, upright
from naflex_deploy.runtime.images.media.depth import Said
from naflex_deploy.runtime.images.media.frame import Decision, Frame
from naflex_deploy.runtime.images.media.tiff.directories import read_chain
from naflex_deploy.runtime.images.media.tiff.reader import read_tiff
from naflex_deploy.runtime.images.source import check_size, damage

FORMATS = "JPEG, PNG, WebP, TIFF or BMP"
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

Opener = Callable[[IO[bytes]], ImageFile.ImageFile]


def read_still(stream: IO[bytes], *, name: str, image: ImageSection, done: Collection[int] = ()) -> Iterator[Frame]:
    """The picture of a file, or the pages of a TIFF. Animations and multi-picture files give their first picture.

    Args:
        stream: The file, at its beginning.
        name: In messages.
        image: Of the profile.
        done: Numbers of frames that are left out.

    Raises:
        ImageError: It is no image, damaged, too large, or its values have no range.
    """
    start = _start(stream)
    if start.startswith(TIFFS):
        yield from read_tiff(stream, name=name, image=image, done=done)
    elif 0 not in done:
        with damage(name):
            opened = _opener(start, name)(stream)
            stored = Stored(said=_significant(stream, start, name), opaque=isinstance(opened, BmpImageFile))
        yield read_image(opened, name=name, image=image, stored=stored)


def read_header(stream: IO[bytes], name: str) -> tuple[int, int, int]:
    """(width, height, frames) of an encoded image as stored: not turned upright, no pixel decoded.

    Raises:
        ImageError: The content is no image, or a damaged one.
    """
    start = _start(stream)
    with damage(name):
        if start.startswith(TIFFS):
            chain = read_chain(stream)
            return *chain.pages[0].full.size, len(chain.pages) + bool(chain.damaged)
        opened = _opener(start, name)(stream)
        return opened.width, opened.height, 1


def read_image(picture: Image.Image, *, name: str, image: ImageSection, stored: Stored = PLAIN) -> Frame:
    """A Pillow image, loaded or not, as a frame."""
    check_size(picture.width, picture.height, name, image.max_pixels)
    with damage(name):
        picture.load()
        # A TIFF is upright once it is loaded: Pillow turns it and drops the tag.
        turn = orientation(picture)
        rgb, decisions = to_rgb(picture, name, image, stored)
        said = _density(picture)
        if said is not None and turn in QUARTERS:
            said = said.turned()
        aspect, dpi, ratio = density.resolve(said, image)
        turned: tuple[Decision, ...] = tuple(filter(None, [turn_of(turn)]))
        return Frame(0, upright(rgb, turn), dpi=dpi, aspect=aspect, last=True, decisions=(*turned, *decisions, *ratio))


def _start(stream: IO[bytes]) -> bytes:
    start = stream.read(16)
    stream.seek(0)
    return start


def _opener(start: bytes, name: str) -> Opener:
    """The reader of the format that the first bytes tell."""
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WebPImageFile
    if start.startswith(b"BM"):
        return BmpImageFile
    if not start:
        raise ImageError(f"{name}: expected {FORMATS} data, found an empty file", hint="replace the file")
    raise ImageError(
        f"{name}: expected {FORMATS} data, found data that starts with {start!r}",
        hint="convert it to one of these formats",
    )


def _density(picture: Image.Image) -> density.Density | None:
    """Pixels per unit as JFIF, PNG and others state them, as stored; Pillow's JPEG reader gives one number of EXIF."""
    info = picture.info
    if "jfif_density" in info and info.get("jfif_unit") == 0:
        across, down = info["jfif_density"]
        return density.Density(float(across), float(down), False, "JFIF density")
    if "aspect" in info:
        across, down = info["aspect"]
        return density.Density(float(across), float(down), False, "PNG pHYs")
    if "dpi" in info:
        across, down = (float(value) for value in info["dpi"])
        said_by = {"JPEG": "JFIF density", "PNG": "PNG pHYs"}.get(picture.format or "", "density")
        return density.Density(across, down, True, said_by)
    if "resolution" in info:
        across, down = (float(value) for value in info["resolution"])
        return density.Density(across, down, False, "resolution")
    return None


def _significant(stream: IO[bytes], start: bytes, name: str) -> Said | None:
    """The range that the chunk sBIT of a 16-bit grey PNG states (PNG 3, 11.3.2.7)."""
    if not start.startswith(b"\x89PNG"):
        return None
    place = stream.tell()
    try:
        stream.seek(8)
        head = stream.read(25)
        if head[16] != 16 or head[17] != 0:
            return None
        while len(chunk := stream.read(8)) == 8 and chunk[4:] not in (b"IDAT", b"IEND"):
            size = int.from_bytes(chunk[:4], "big")
            if chunk[4:] == b"sBIT" and size == 1:
                bits = stream.read(1)[0]
                if not 1 <= bits <= 16:
                    raise ImageError(f"{name}: sBIT says {bits} of 16 bits", hint="correct the metadata")
                return Said(0, 2**bits - 1, f"{bits} significant bits of sBIT", left=True) if bits < 16 else None
            stream.seek(size + 4, 1)
        return None
    finally:
        stream.seek(place)
