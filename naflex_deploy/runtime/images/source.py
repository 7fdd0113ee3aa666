"""What an image may come from: paths, bytes, streams, Pillow images, arrays; and the checks that all readers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from naflex_deploy.core.errors import ImageError, MissingExtraError
from naflex_deploy.core.pack import Patches

Source = (
    str | Path | bytes | bytearray | memoryview | IO[bytes] | Image.Image | npt.NDArray[Any] | tuple[bytes | Path, ...]
)


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


def open_file(path: Path, name: str) -> IO[bytes]:
    """Open a regular file to be read.

    Raises:
        ImageError: It is a directory, a device, does not exist, or cannot be opened.
    """
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
    """The content of bytes in memory or of a binary stream.

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


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Refuse an image before memory is allocated for its pixels.

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


@contextmanager
def damage(name: str) -> Iterator[None]:
    """Turn any exception of a library that reads damaged data into an ImageError: they raise nearly all kinds."""
    try:
        yield
    except (ImageError, MissingExtraError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: Pillow takes at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels in this format, found more",
            hint="raise PIL.Image.MAX_IMAGE_PIXELS in this process",
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged or truncated image: {reason}", hint="replace the file") from error
