"""Decode images to RGB, torch-free, with Pillow: files, bytes, streams, Pillow images and arrays.

Every image comes out as 8-bit RGB, upright:

- EXIF orientation is applied; an unreadable EXIF block is ignored, as the pixels are sound.
- Transparent pixels are composited over white. CMYK is converted by Pillow, colour profiles are ignored.
- 16-bit grey is mapped by its full range: 65535 → 255. Pillow keeps the high byte of 16-bit colour.
- Floating-point and CIELAB pixels have no fixed range or conversion, and are refused.
- A TIFF gives one image per frame. Animated WebP and PNG, and multi-picture JPEG, give the first.

Pillow's process-wide settings stay untouched: the reader of each format is called directly, as
``Image.open`` would apply ``Image.MAX_IMAGE_PIXELS`` of the process besides the caller's limit. Only the
WebP reader has that check inside: above twice ``MAX_IMAGE_PIXELS`` it is an ImageError that says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Image import Transpose
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.pack import Patches

MAX_PIXELS = 40_000_000

Source = str | Path | bytes | bytearray | memoryview | IO[bytes] | Image.Image | npt.NDArray[Any]

_FORMATS = "JPEG, PNG, WebP, TIFF or BMP"
_ORIENTATION = 0x0112
_UPRIGHT: dict[object, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class _TiffFile(TiffImageFile):
    def load_prepare(self) -> None:
        # The parent allocates only after checking MAX_IMAGE_PIXELS, which could warn or raise here.
        if self._im is None:
            self.im = Image.new(self.mode, self._tile_size, None).im
        super().load_prepare()


def decode(source: Source, *, max_pixels: int = MAX_PIXELS, name: str = "") -> Iterator[Image.Image]:
    """Decode one source, lazily: nothing is read before the first image is asked for.

    Args:
        source: A path, an encoded image in memory, a stream opened in binary mode, a Pillow image (its
            current frame), or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8 or uint16.
        max_pixels: Largest width · height, checked in the header, before pixels are decoded.
        name: Of the source in messages, where it does not say by itself.

    Yields:
        One RGB image per frame. Frames before a damaged one are yielded.

    Raises:
        ImageError: The source is no image, or one of another kind, damaged, or too large.
    """
    name = name or describe(source)
    if isinstance(source, np.ndarray):
        yield _from_array(source, name, max_pixels)
    elif isinstance(source, Image.Image):
        yield _load(source, name, max_pixels)
    elif isinstance(source, str | Path):
        with _open_file(Path(source), name) as stream:
            yield from _frames(stream, name, max_pixels)
    else:
        yield from _frames(BytesIO(content_of(source, name)), name, max_pixels)


def read_header(content: bytes) -> tuple[int, int, int]:
    """(width, height, frames) of an encoded image, as stored: not turned upright, no pixel decoded.

    Raises:
        ImageError: The content is no image, or a damaged one.
    """
    name = describe(content)
    with _damage(name):
        image = _open(BytesIO(content), name)
        return image.width, image.height, int(image.n_frames) if isinstance(image, TiffImageFile) else 1


def describe(source: object) -> str:
    """A short name of a source for messages, on one line."""
    match source:
        case str() | Path():
            name = str(source)
            return name if name.isprintable() else repr(name)
        case bytes() | bytearray() | memoryview():
            return f"<{len(source)} bytes>"
        case Patches():
            return f"<{source.grid_hw[0]}x{source.grid_hw[1]} patches>"
        case Image.Image():
            return f"<{source.mode} image, {source.width}x{source.height}>"
        case np.ndarray():
            return f"<{source.dtype} array {list(source.shape)}>"
        case _:
            filename = getattr(source, "name", None)
            return describe(filename) if isinstance(filename, str) else f"<{type(source).__name__}>"


def _open_file(path: Path, name: str) -> IO[bytes]:
    try:
        if path.is_file():
            return path.open("rb")
        found = "a directory" if path.is_dir() else "a device" if path.exists() else "no file of that name"
    except OSError as error:
        raise ImageError(
            f"{name}: cannot be opened: {error.strerror}", hint="check its name and permissions"
        ) from error
    raise ImageError(f"{name}: expected an image file, found {found}", hint="pass the path of one image")


def content_of(source: object, name: str) -> bytes:
    """What is in memory or in a stream.

    Raises:
        ImageError: It is neither, or a stream of text.
    """
    content = source.read() if hasattr(source, "read") else source
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ImageError(
            f"{name}: expected a path, bytes, a binary stream, a Pillow image or an array, found "
            + (f"a stream of {type(content).__name__}" if content is not source else type(source).__name__),
            hint="open files in binary mode, and convert tensors to NumPy arrays with the channels last",
        )
    return bytes(content)


def _frames(stream: IO[bytes], name: str, max_pixels: int) -> Iterator[Image.Image]:
    with _damage(name):
        image = _open(stream, name)
    yield _load(image, name, max_pixels)
    if not isinstance(image, TiffImageFile):
        return
    for frame in range(1, 2**31):
        frame_name = f"{name}, frame {frame + 1}"
        with _damage(frame_name):
            try:
                image.seek(frame)
            except EOFError:
                return
        yield _load(image, frame_name, max_pixels)


def _open(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the header."""
    start = stream.read(16)
    stream.seek(0)
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImageFile(stream)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile(stream)
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WebPImageFile(stream)
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _TiffFile(stream)
    if start.startswith(b"BM"):
        return BmpImageFile(stream)
    if not start:
        raise ImageError(f"{name}: expected {_FORMATS} data, found an empty file", hint="replace the file")
    raise ImageError(
        f"{name}: expected {_FORMATS} data, found data that starts with {start!r}",
        hint="convert it to one of these formats",
    )


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Pillow's readers raise nearly any exception on damaged data; make it an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: Pillow expected at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels in a WebP image, found more",
            hint="raise PIL.Image.MAX_IMAGE_PIXELS in this process",
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged or truncated image: {reason}", hint="replace the file") from error


def _load(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Decode the current frame to RGB. The result shares nothing that a later frame overwrites."""
    check_size(image.width, image.height, name, max_pixels)
    with _damage(name):
        image.load()
        # A TIFF is already upright once loaded: Pillow turns it and drops the tag.
        turn = _UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image, name)
        if turn is not None:
            return rgb.transpose(turn)
        return rgb.copy() if rgb is image and isinstance(image, TiffImageFile) else rgb


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Refuse an image before its pixels are made.

    Raises:
        ImageError: It is empty, or has more than ``max_pixels``.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{name}: expected at least 1x1 pixels, found {width}x{height}", hint="leave it out")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: expected at most {max_pixels} pixels, found {width}x{height} = {width * height}",
            hint="shrink it, or raise image.max_pixels in the profile if its source is trusted",
        )


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:
        return None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise ImageError(
                f"{name}: expected integer pixels in 0..65535, found {values.min()}..{values.max()}",
                hint="convert it to 8 or 16 unsigned bits",
            )
        return Image.fromarray(_eight_bits(values)).convert("RGB")
    if image.mode in ("F", "LAB"):
        kind = "floating-point" if image.mode == "F" else "CIELAB"
        raise ImageError(
            f"{name}: expected integer grey, RGB or CMYK pixels, found {kind} ones",
            hint="convert it to 8 or 16 bits, choosing the range that matters",
        )
    if image.has_transparency_data:
        over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return over_white.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """0..65535 → 0..255, rounded to nearest: 65535 = 255 · 257."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_array(array: npt.NDArray[Any], name: str, max_pixels: int) -> Image.Image:
    if array.dtype.name not in ("uint8", "uint16"):
        raise ImageError(
            f"{name}: expected an array of uint8 or uint16, found {array.dtype}",
            hint="scale it to 0..255 and convert it with .astype(numpy.uint8)",
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"{name}: expected shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], found {list(array.shape)}",
            hint="put the channels last, and pass the images of a batch one by one",
        )
    check_size(array.shape[1], array.shape[0], name, max_pixels)
    pixels = array if array.dtype.name == "uint8" else _eight_bits(array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels)), name)
