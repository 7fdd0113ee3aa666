"""Still images that Pillow reads: the format is told by the first bytes, and the picture comes out upright, as RGB.

Pillow's process-wide settings stay untouched: the reader of each format is called directly, as ``Image.open`` would
apply ``Image.MAX_IMAGE_PIXELS`` of the process besides the caller's limit. Only some readers have that check inside:
above twice ``MAX_IMAGE_PIXELS`` it is an ImageError that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import IO

from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.WebPImagePlugin import WebPImageFile

from naflex_deploy.core.errors import ImageError, needs_extra
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.media import density
from naflex_deploy.runtime.images.media.colours import (
    PLAIN,
    QUARTERS,
    Stored,
    orientation,
    to_rgb,
    to_srgb,
    turn_of,
    upright,
)
from naflex_deploy.runtime.images.media.depth import Said
from naflex_deploy.runtime.images.media.frame import Decision, Frame
from naflex_deploy.runtime.images.media.scaled import MODES, ScaledJpeg
from naflex_deploy.runtime.images.media.tiff.directories import read_chain
from naflex_deploy.runtime.images.media.tiff.reader import read_tiff
from naflex_deploy.runtime.images.source import check_size, damage

FORMATS = "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, HEIC, JPEG 2000 or PNM"
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_CANVASES = 4
"""Pictures of the whole canvas that readers hold of an animation, of which each may be mostly empty."""

_IN_FULL = Decision("reader", "decoded in full: image.decode = scaled is for JPEG in grey or RGB, without a profile")

Opener = Callable[[IO[bytes]], ImageFile.ImageFile]


def read_still(stream: IO[bytes], *, name: str, image: ImageSection, done: Collection[int] = ()) -> Iterator[Frame]:
    """The picture of a file, or the pages of a TIFF. Multi-picture files give their first picture, animations too.

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
    else:
        with damage(name):
            opened = _opener(start, name)(stream)
            said, bitmap = _significant(stream, start, name), isinstance(opened, BmpImageFile)
            stored = Stored(said=said, opaque=bitmap, own=True)
            several, webp = image.frames == "all" and not _is_jpeg(start), isinstance(opened, WebPImageFile)
            pictures = int(getattr(opened, "n_frames", 1)) if several or webp else 1  # of a GIF by decoding them all
            if webp and pictures > 1:
                check_size(opened.width, opened.height, name, image.max_pixels // _CANVASES)
            count = pictures if several else 1
        if count > 1:
            yield from _animation(opened, count, name, image, done)
        elif 0 not in done:
            scaled = _scaled(opened, stream, name, image) if image.decode == "scaled" else None
            yield scaled or read_image(opened, name=name, image=image, stored=stored)


def is_still(content: bytes) -> bool:
    """Whether a reader takes content by its first bytes; what is no picture is refused by them alone."""
    start = content[:16]
    try:
        return start.startswith(TIFFS) or _opener(start, "") is not None
    except ImageError:
        return False


def read_header(stream: IO[bytes], name: str) -> tuple[int, int, int]:
    """(width, height, frames) of an encoded image as stored: not turned upright, no pixel decoded.

    Frames are counted until the second: 2 stands for several.

    Raises:
        ImageError: The content is no image, or a damaged one.
    """
    start = _start(stream)
    with damage(name):
        if start.startswith(TIFFS):
            chain = read_chain(stream, pictures=2)
            return *chain.pages[0].full.size, len(chain.pages) + bool(chain.damaged)
        opened = _opener(start, name)(stream)
        return opened.width, opened.height, 1


def read_image(picture: Image.Image, *, name: str, image: ImageSection, stored: Stored = PLAIN) -> Frame:
    """A Pillow image, loaded or not, as a frame."""
    check_size(picture.width, picture.height, name, image.max_pixels)
    with damage(name):
        picture.load()
        # A TIFF is upright once it is loaded: Pillow turns it and drops the tag.
        turn, aspect, dpi, ratio = _seen(picture, image, name)
        picture, told = to_srgb(picture, image, stored.own)
        rgb, decisions = to_rgb(picture, name, image, stored)
        turned: tuple[Decision, ...] = tuple(filter(None, [turn_of(turn)]))
        if image.decode == "scaled":
            decisions = (*decisions, _IN_FULL)
        return Frame(
            0,
            upright(rgb, turn, own=stored.own),
            dpi=dpi,
            aspect=aspect,
            last=True,
            decisions=(*turned, *told, *decisions, *ratio),
        )


def _scaled(opened: ImageFile.ImageFile, stream: IO[bytes], name: str, image: ImageSection) -> Frame | None:
    """A JPEG that is decoded once its size is known; ``None`` for anything else, which is decoded in full."""
    if not isinstance(opened, JpegImageFile) or opened.mode not in MODES:
        return None
    if image.icc and opened.info.get("icc_profile"):
        return None
    check_size(opened.width, opened.height, name, image.max_pixels)
    turn, aspect, dpi, ratio = _seen(opened, image, name)
    size = opened.size[::-1] if turn in QUARTERS else opened.size
    decisions = [*filter(None, [turn_of(turn)]), *ratio, Decision("reader", "decoded at the scale that its fit allows")]
    picture = ScaledJpeg(stream, size, turn, name)
    return Frame(0, picture, dpi=dpi, aspect=aspect, last=True, decisions=tuple(decisions))


def _seen(
    picture: Image.Image, image: ImageSection, name: str
) -> tuple[object, float, float | None, tuple[Decision, ...]]:
    """The EXIF orientation, and the ratio and density of pixels once the picture is upright."""
    turn, said = orientation(picture), _density(picture)
    if said is not None and turn in QUARTERS:
        said = said.turned()
    return turn, *density.resolve(said, image, name)


def _animation(
    opened: ImageFile.ImageFile, count: int, name: str, image: ImageSection, done: Collection[int]
) -> Iterator[Frame]:
    """Every picture of an animation as it is seen, at the time at which it is."""
    time = 0.0
    for number in range(count):
        frame_name = f"{name}, frame {number + 1}"
        with damage(frame_name):
            opened.seek(number)
        # A picture of a GIF may be larger than those before it.
        check_size(opened.width, opened.height, frame_name, image.max_pixels // _CANVASES)
        frame = read_image(opened, name=frame_name, image=image)
        duration = float(opened.info.get("duration", 0) or 0)
        if number not in done:
            picture = frame.picture.copy() if isinstance(frame.picture, Image.Image) else frame.picture
            yield replace(frame, number=number, picture=picture, time=time / 1000, last=number == count - 1)
        time += duration


def _is_jpeg(start: bytes) -> bool:
    return start.startswith(b"\xff\xd8\xff")


def _start(stream: IO[bytes]) -> bytes:
    start = stream.read(16)
    stream.seek(0)
    return start


def _opener(start: bytes, name: str) -> Opener:
    """The reader of the format that the first bytes tell."""
    if _is_jpeg(start):
        return JpegImageFile
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WebPImageFile
    if start.startswith(b"BM"):
        return BmpImageFile
    if start.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile
    if start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis"):
        return AvifImageFile
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        return _open_heif
    if start.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return Jpeg2KImageFile
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace():
        return PpmImageFile
    if not start:
        raise ImageError(f"{name}: expected {FORMATS} data, found an empty file", hint="replace the file")
    raise ImageError(
        f"{name}: expected {FORMATS} data, found data that starts with {start!r}",
        hint="convert it to one of these formats",
    )


def _open_heif(stream: IO[bytes]) -> ImageFile.ImageFile:
    """HEIC by libheif, whose reader has turned the picture already."""
    with needs_extra("heif"):
        from pi_heif import HeifImageFile
    opened: ImageFile.ImageFile = HeifImageFile(stream)
    return opened


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
