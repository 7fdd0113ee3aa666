"""Cut an image into patches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.pack import Patches


def patchify(image: npt.NDArray[np.uint8] | npt.NDArray[np.float32], patch_size: int) -> Patches:
    """Cut an image into patches, row by row.

    Args:
        image: [H, W, C], both sides multiples of the patch size.
        patch_size: P, side of a patch in pixels.

    Returns:
        [h·w, P·P·C] pixels in the dtype of the image, each row in (row, column, channel) order.

    Raises:
        ValueError: A side is no multiple of the patch size.
    """
    height, width, channels = image.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"expected multiples of the patch size {patch_size}, found {width}x{height} pixels")
    h, w = height // patch_size, width // patch_size
    blocks = image.reshape(h, patch_size, w, patch_size, channels).transpose(0, 2, 1, 3, 4)
    return Patches(blocks.reshape(h * w, patch_size * patch_size * channels), (h, w))
