"""Resizing a picture as training did: the width first, then the height, with 8-bit pixels in between."""

from __future__ import annotations

from PIL import Image
from PIL.Image import Resampling

MOST_BETWEEN = 50_000_000
"""Pixels of the picture between the two passes of a resize, 200 MB beside the 480 MB of the largest picture."""


def resized(image: Image.Image, size: tuple[int, int], resample: Resampling) -> Image.Image:
    """An image at (width, height) ``size``.

    This is the order of Pillow up to 12 and of torchvision, with which the models were trained. Pillow 13 starts with
    the height where that shrinks much more than the width, which gives other pixels. The two passes are two calls, so
    that every version gives the same. A sliver that would take gigabytes between the passes starts with the height.
    """
    (width, height), (stored_width, stored_height) = size, image.size
    if width != stored_width and height != stored_height:
        sliver = width * stored_height > MOST_BETWEEN
        image = image.resize((stored_width, height) if sliver else (width, stored_height), resample)
    return image.resize(size, resample)
