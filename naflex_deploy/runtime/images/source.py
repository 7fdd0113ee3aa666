"""What an image may come from: paths, bytes, streams, Pillow images, arrays; and the checks that all readers share."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from naflex_deploy.core.errors import ImageError, MissingExtraError
from naflex_deploy.core.pack import Patches


class Tensor(Protocol):
    """A torch tensor, as far as it is used here: torch itself is not imported."""

    @property
    def shape(self) -> Sequence[int]: ...

    def detach(self) -> Any: ...


Source = (
    str
    | Path
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | Image.Image
    | npt.NDArray[Any]
    | Tensor
    | tuple[bytes | Path, ...]
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}(?=[^/])|data:")
"""A scheme, also where `Path` made one slash of two. Drives of Windows have a single letter."""


LONGEST = 255
"""Characters of a path in messages; what is longer is probably no path."""


def describe(source: object) -> str:
    """A short name of a source for messages, on one line."""
    match source:
        case str() | Path():
            name = str(source)
            name = name if len(name) <= LONGEST else f"{name[:LONGEST]}…"
            return name if name.isprintable() else repr(name)
        case bytes() | bytearray() | memoryview():
            return f"<{len(source)} bytes>"
        case Patches():
            return f"<{source.grid_hw[0]}x{source.grid_hw[1]} patches>"
        case _ if is_tensor(source):
            return f"<{str(source.dtype).removeprefix('torch.')} tensor {list(source.shape)}>"
        case Image.Image():
            return f"<{source.mode} image, {source.width}x{source.height}>"
        case np.ndarray():
            return f"<{source.dtype} array {list(source.shape)}>"
        case _:
            filename = getattr(source, "name", None)
            return describe(filename) if isinstance(filename, str) else f"<{type(source).__name__}>"


def is_tensor(source: object) -> TypeGuard[Any]:
    """Whether it is a torch tensor, which nothing is where torch has not been imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, getattr(torch, "Tensor", ()))


def array_of(tensor: Tensor, name: str) -> npt.NDArray[Any]:
    """The values of a tensor [C, H, W] or [H, W], on any device, as an array [H, W, C] or [H, W].

    Raises:
        ImageError: It has another shape.
    """
    if len(tensor.shape) == 3 and tensor.shape[0] not in (1, 3, 4):
        raise ImageError(
            f"{name}: expected a tensor [C, H, W] of 1, 3 or 4 channels, found {list(tensor.shape)}",
            hint="put the channels first, as torchvision does: .permute(2, 0, 1)",
        )
    values = tensor.detach().cpu()
    found = np.asarray(values.float() if values.is_floating_point() else values)
    return np.moveaxis(found, 0, -1) if found.ndim == 3 else found


def refuse_url(path: Path, name: str) -> None:
    """Say of a URL, or of the content of one, that it is no path.

    Raises:
        ImageError: It is one.
    """
    if _URL.match(str(path)) and not (len(str(path)) < LONGEST and path.exists()):
        raise ImageError(
            f"{name}: expected an image file, found a URL, which is never fetched",
            hint="download it, and pass the file or its bytes",
        )


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
            hint="open files in binary mode, and convert arrays of other libraries to NumPy with the channels last",
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


def out_of_memory(name: str) -> ImageError:
    """The error of an input whose reader was refused memory."""
    return ImageError(
        f"{name}: cannot be read (MemoryError)",
        hint="leave it out, or raise limits.memory in the profile if its source is trusted",
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
    except MemoryError as error:
        raise out_of_memory(name) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged or truncated image: {reason}", hint="replace the file") from error
