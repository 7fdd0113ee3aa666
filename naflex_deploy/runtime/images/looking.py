"""What the model sees of a frame, drawn for a person: its pixels at the patch grid, and where its tiles lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.images.cutting import Piece

_GRID, _TILE = (255, 0, 0, 70), (0, 90, 255, 255)
_SHORTEST = 512
"""Pixels of the longer side below which a drawing is enlarged, each pixel to a square, so that the grid is visible."""


def pixels_of(patches: Patches, patch_size: int) -> npt.NDArray[np.uint8]:
    """The image that patches were cut from, or the first frame of a clip.

    Args:
        patches: [h·w, P·P·3] uint8; [h·w, 2·P·P·3] of two frames.
        patch_size: P, side of a patch in pixels.

    Returns:
        [h·P, w·P, 3] uint8.
    """
    h, w = patches.grid_hw
    first = patches.pixels[:, : 3 * patch_size * patch_size]
    blocks = first.reshape(h, w, patch_size, patch_size, 3).transpose(0, 2, 1, 3, 4)
    return np.asarray(blocks.reshape(h * patch_size, w * patch_size, 3), np.uint8)


def draw(piece: Piece, patch_size: int, tiles: Sequence[Piece] = ()) -> Image.Image:
    """One image of a frame with its patch grid, and the outlines of tiles over it.

    Args:
        piece: The image.
        patch_size: Side of a patch in pixels.
        tiles: Whose boxes are drawn, in the frame that ``piece`` shows as a whole.
    """
    pixels = pixels_of(piece.patches, patch_size)
    factor = max(1, -(-_SHORTEST // max(pixels.shape[:2])))
    image = Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1))
    pen = ImageDraw.Draw(image, "RGBA")
    step = patch_size * factor
    for x in range(step, image.width, step):
        pen.line((x, 0, x, image.height), _GRID)
    for y in range(step, image.height, step):
        pen.line((0, y, image.width, y), _GRID)
    left, top, right, bottom = piece.box
    for number, tile in enumerate(tiles, 1):
        x0, x1 = ((side - left) / (right - left) * image.width for side in (tile.box[0], tile.box[2]))
        y0, y1 = ((side - top) / (bottom - top) * image.height for side in (tile.box[1], tile.box[3]))
        x1, y1 = min(x1, image.width - 1), min(y1, image.height - 1)
        pen.rectangle((x0, y0, x1, y1), outline=_TILE, width=2)
        pen.text(((x0 + x1) / 2, (y0 + y1) / 2), str(number), _TILE, anchor="mm")
    return image
