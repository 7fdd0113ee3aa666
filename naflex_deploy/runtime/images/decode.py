"""Decode images to RGB, torch-free: files, bytes, streams, Pillow images and arrays.

Every image comes out as 8-bit RGB, upright:

- EXIF orientation is applied; an unreadable EXIF block is ignored, as the pixels are sound.
- Transparent pixels are composited over white. CMYK is converted by Pillow, colour profiles are ignored.
- Values of more than 8 bits are mapped by the range that the file states, else by all of 16 bits: 65535 → 255.
- Floating-point and CIELAB pixels have no fixed range or conversion, and are refused.
- A TIFF gives one image per page. Animated WebP and PNG, and multi-picture JPEG, give the first.

Pixels that are not square come out as stored: their ratio is a field of `Frame`, which `read_frames` gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import cast

from PIL import Image

from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.media import stills
from naflex_deploy.runtime.images.media.read import read_pictures
from naflex_deploy.runtime.images.source import Source, describe

MAX_PIXELS = ImageSection().max_pixels


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
    for frame in read_pictures(source, name or describe(source), ImageSection(max_pixels=max_pixels)):
        if frame.error is not None:
            raise frame.error
        yield cast(Image.Image, frame.picture)


def read_header(content: bytes) -> tuple[int, int, int]:
    """(width, height, frames) of an encoded image, as stored: not turned upright, no pixel decoded.

    Raises:
        ImageError: The content is no image, or a damaged one.
    """
    return stills.read_header(BytesIO(content), describe(content))
