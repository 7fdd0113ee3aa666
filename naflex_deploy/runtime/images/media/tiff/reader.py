"""Pages of TIFF files: by Pillow, and by tifffile where Pillow cannot or gives other pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

from naflex_deploy.core.errors import ImageError, needs_extra
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.media import density
from naflex_deploy.runtime.images.media.colours import (
    LARGE,
    ORIENTATION,
    QUARTERS,
    Stored,
    orientation,
    to_rgb,
    to_srgb,
    turn_of,
    upright,
)
from naflex_deploy.runtime.images.media.depth import Said, to_eight_bits
from naflex_deploy.runtime.images.media.frame import Decision, Frame
from naflex_deploy.runtime.images.media.tiff import directories as tags
from naflex_deploy.runtime.images.media.tiff.directories import Chain, Directory, Page, read_chain, significant_bits
from naflex_deploy.runtime.images.source import check_size, damage

_NAMES = {33003: "Aperio JPEG 2000", 33005: "Aperio JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 50002: "JPEG XL"}
_DEEPEST = 8
"""Bytes of a pixel: RGBA of 16 bits has as many."""

_INVERTED, _GREY, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6


class _TiffFile(TiffImageFile):
    turn: object = None
    """The EXIF orientation of a large picture, which Pillow would hold twice while it turns it."""

    def load_end(self) -> None:
        if self.width * self.height > LARGE:
            self.turn = orientation(self)
            self.getexif()[ORIENTATION] = 1
        super().load_end()
        self._size = self.im.size  # until here, that of the picture as Pillow would turn it

    def load_prepare(self) -> None:
        # The parent allocates only after checking MAX_IMAGE_PIXELS, which could warn or raise here.
        if self._im is None:
            self.im = Image.new(self.mode, self._tile_size, None).im
        super().load_prepare()


class _StartingAt(io.RawIOBase):
    """A file whose header is another one: that of a TIFF file names its first directory."""

    def __init__(self, stream: IO[bytes], header: bytes) -> None:
        self._stream, self._header = stream, header

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def fileno(self) -> int:
        return self._stream.fileno()

    def readinto(self, buffer: Any) -> int:
        place = self._stream.tell()
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        patched = self._header[place : place + len(content)]
        buffer[: len(patched)] = patched
        return len(content)


def read_tiff(stream: IO[bytes], *, name: str, image: ImageSection, done: Collection[int] = ()) -> Iterator[Frame]:
    """The pages of a file; reduced copies, masks, labels and thumbnails are none. A bad one is a frame with an error.

    Args:
        stream: The file, at its beginning.
        name: In messages.
        image: Of the profile.
        done: Numbers of pages that are left out.

    Raises:
        ImageError: Its directories are damaged. Pages before that are yielded.
        MissingExtraError: tifffile is needed and not installed.
    """
    with damage(name):
        chain = read_chain(stream)
    count = len(chain.pages)
    said = significant_bits(chain.pages[0].full.description)
    for number, page in enumerate(chain.pages):
        if number in done:
            continue
        alone = count == 1 and not chain.damaged
        frame_name = name if alone or not number else f"{name}, frame {number + 1}"
        last = number == count - 1 and not chain.damaged
        try:
            frame = _read(stream, chain, page, frame_name, image, said)
        except ImageError as error:
            frame = Frame(0, error=error)
        yield replace(frame, number=number, last=last)
    if chain.damaged:
        raise ImageError(
            f"{name}, frame {count + 1}: damaged or truncated image: {chain.damaged}", hint="replace the file"
        )


def _read(
    stream: IO[bytes], chain: Chain, page: Page, name: str, image: ImageSection, significant: int | None
) -> Frame:
    level = page.within(image.max_pixels)
    check_size(*level.size, name, image.max_pixels)
    decisions: list[Decision] = []
    if level is not page.full:
        text = f"{level.size[0]}x{level.size[1]}, the largest level within image.max_pixels"
        decisions.append(Decision("level", f"{text}, of {page.full.size[0]}x{page.full.size[1]}"))
    if page.preview:
        decisions.append(Decision("level", "the preview: raw sensor values are not developed", warning=True))
    turn = page.full.number(tags.ORIENTATION, 1)
    decisions += filter(None, [turn_of(turn)])
    said = _said(level, significant, name)
    with damage(name):
        rgb, more = _by_pillow(stream, chain, level, name, image, said)
        if rgb is None:
            rgb, more = _by_tifffile(stream, level, name, image, said)
            rgb = upright(rgb, turn)
    more = (*more, *filter(None, [_left_out(level)]))
    scale = level.size[0] / page.full.size[0]
    aspect, dpi, ratio = density.resolve(_density(page.full, scale, turn), image, name)
    return Frame(0, rgb, dpi=dpi, aspect=aspect, decisions=(*decisions, *more, *ratio))


def _left_out(directory: Directory) -> Decision | None:
    """What is said of samples that are neither colour nor transparency, such as near infrared."""
    colours = {_RGB: 3, _YCBCR: 3, _CMYK: 4}.get(directory.number(tags.PHOTOMETRIC, -1))
    extra = directory.tags.get(tags.EXTRA_SAMPLES, ())
    others = directory.number(tags.SAMPLES, 1) - (colours or 0) - bool(extra and extra[0] in (1, 2))
    if colours is None or others < 1:
        return None
    return Decision("colour", f"{others} of {directory.number(tags.SAMPLES)} channels left out: they are no colours")


def _density(directory: Directory, scale: float, turn: int) -> density.Density | None:
    if not directory.tags.get(tags.X_RESOLUTION) or not directory.tags.get(tags.Y_RESOLUTION):
        return None
    unit = directory.number(tags.UNIT, 2)
    inches = {2: 1.0, 3: 2.54}.get(unit)
    across, down = (
        float(directory.tags[tag][0]) * (inches or 1) * scale for tag in (tags.X_RESOLUTION, tags.Y_RESOLUTION)
    )
    found = density.Density(across, down, inches is not None, "TIFF resolution")
    return found.turned() if turn in QUARTERS else found


def _said(directory: Directory, significant: int | None, name: str) -> Said | None:
    """The range of unsigned values, where the file states one below all their bits."""
    bits = directory.number(tags.BITS, 1)
    if bits <= 8 or directory.number(tags.FORMAT, 1) != 1:
        return None
    most = directory.number(tags.MAX_VALUE, 0)
    found = None
    if most and most != 2**bits - 1:
        found = Said(0, most, "MaxSampleValue")
    elif significant is not None and significant != bits:
        found = Said(0, 2**significant - 1, f"{significant} significant bits of OME")
    elif bits < 16:
        found = Said(0, 2**bits - 1, f"{bits} bits per sample")
    if found and found.high >= 2**bits:
        raise ImageError(f"{name}: {found.by} exceed the {bits} bits that are stored", hint="correct the metadata")
    return found


def _by_pillow(
    stream: IO[bytes], chain: Chain, directory: Directory, name: str, image: ImageSection, said: Said | None
) -> tuple[Image.Image | None, tuple[Decision, ...]]:
    """Upright RGB; ``None`` where Pillow cannot, or would drop bits or planes."""
    bits, samples = directory.number(tags.BITS, 1), directory.number(tags.SAMPLES, 1)
    deep_colour = bits > 8 and samples > 1
    ranged = said is not None or image.range not in ("file", "full")
    if directory.number(tags.COMPRESSION, 1) not in COMPRESSION_INFO:
        return None, ()
    if deep_colour and (ranged or directory.number(tags.PLANAR, 1) == 2):
        return None, ()
    stream.seek(0)
    at_first = directory.offset == chain.first
    source = stream if at_first else cast(IO[bytes], _StartingAt(stream, chain.header(directory.offset)))
    try:
        opened = _TiffFile(source)
    except (SyntaxError, KeyError, NotImplementedError, OSError):
        # Pillow has no mode for it, or it is damaged, which tifffile then says.
        return None, ()
    opened.load()
    kind, wide = directory.number(tags.FORMAT, 1), opened.mode in ("I", "F") or opened.mode.startswith("I;16")
    stored = Stored(
        said=said,
        inverted=wide and directory.number(tags.PHOTOMETRIC, 1) == _INVERTED,
        dtype={(1, 32): "uint32", (2, 16): "int16"}.get((kind, bits)),
        missing=directory.missing,
        own=True,
    )
    picture, told = to_srgb(opened, image, stored.own)
    rgb, decisions = to_rgb(picture, name, image, stored)
    return upright(rgb, opened.turn, own=True), (*told, *decisions)


def _by_tifffile(
    stream: IO[bytes], directory: Directory, name: str, image: ImageSection, said: Said | None
) -> tuple[Image.Image, tuple[Decision, ...]]:
    compression, kind = directory.number(tags.COMPRESSION, 1), directory.number(tags.PHOTOMETRIC, -1)
    if kind == tags.CFA:
        raise ImageError(f"{name}: expected a picture, found raw values of a camera's sensor", hint="develop it first")
    width, height = directory.size
    size = width * height * directory.number(tags.SAMPLES, 1) * -(-directory.number(tags.BITS, 1) // 8)
    if size > _DEEPEST * image.max_pixels:
        raise ImageError(
            f"{name}: expected at most {_DEEPEST * image.max_pixels} bytes of samples, found {size}",
            hint="choose the channels that matter and save them as grey or RGB",
        )
    with needs_extra("tiff"):
        import imagecodecs  # noqa: F401
        import tifffile
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page = next(page for page in _all_pages(file) if page.offset == directory.offset)
        parts = math.prod(page.chunked)
        if len(page.dataoffsets) != parts:  # tifffile would leave the others black
            found = f"{len(page.dataoffsets)} of {parts} strips or tiles"
            raise ImageError(f"{name}: damaged or truncated image: {found}", hint="replace the file")
        try:
            array: npt.NDArray[Any] = page.asarray()
        except ValueError as error:
            if compression in COMPRESSION_INFO or "KeyError" in str(error):
                raise
            label = f"{compression} ({_NAMES[compression]})" if compression in _NAMES else str(compression)
            raise ImageError(
                f"{name}: no installed reader decodes TIFF compression {label}",
                hint="save it with Deflate",
            ) from None
        colours = page.colormap
    if directory.number(tags.PLANAR, 1) == 2 and array.ndim == 3:
        array = np.moveaxis(array, 0, 2)
    decisions = [Decision("reader", "tifffile")]
    if kind == _PALETTE and colours is not None:
        array, kind = (colours.T >> 8).astype(np.uint8)[array], _RGB
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:  # whose memory is free from here on
        array, decision = to_eight_bits(array, image.range, name, said, directory.missing)
        decisions.append(decision)
    rgb, more = _from_planes(array, kind, directory, name, image)
    return rgb, (*decisions, *more)


def _all_pages(file: Any) -> Iterator[Any]:
    for page in file.pages:
        yield page
        yield from page.pages or ()


def _from_planes(
    array: npt.NDArray[np.uint8], kind: int, directory: Directory, name: str, image: ImageSection
) -> tuple[Image.Image, tuple[Decision, ...]]:
    """[h, w] or [h, w, samples] values as RGB.

    Raises:
        ImageError: The samples are no colours.
    """
    samples = array.shape[2] if array.ndim == 3 else 1
    extra = directory.tags.get(tags.EXTRA_SAMPLES, ())
    alpha = bool(extra) and extra[0] in (1, 2)
    colour = {_GREY: 1, _INVERTED: 1, _RGB: 3, _YCBCR: 3, _CMYK: 4}.get(kind)
    if colour is None or samples < colour or (colour == 1 and samples > 2):
        raise ImageError(
            f"{name}: expected grey, RGB or CMYK pixels, found {samples} samples a pixel of photometric kind {kind}",
            hint="choose the channels that matter and save them as grey or RGB",
        )
    if colour == 1 and kind == _INVERTED:
        array = 255 - array
    if colour == 1:
        array = array if samples == 1 else array[:, :, : 2 if alpha else 1]
        mode = "LA" if array.ndim == 3 and array.shape[2] == 2 else "L"
        array = array[:, :, 0] if array.ndim == 3 and mode == "L" else array
    else:
        array = array[:, :, : colour + (alpha and colour == 3 and samples > 3)]
        mode = {3: "RGB", 4: "CMYK" if colour == 4 else "RGBA"}[array.shape[2]]
    values = np.ascontiguousarray(array)
    size = (values.shape[1], values.shape[0])
    return to_rgb(Image.frombuffer(mode, size, values, "raw", mode, 0, 1), name, image)
