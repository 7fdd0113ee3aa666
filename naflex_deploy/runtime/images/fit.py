"""Choose the patch grid of an image, and bring the image to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Image import Resampling

from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.images.media.frame import Picture
from naflex_deploy.runtime.images.media.scaled import ScaledJpeg
from naflex_deploy.runtime.images.resampling import resized

Policy = Literal["fill", "shrink-only", "pad-to-patch"]
Oversize = Literal["error", "shrink"]
Search = Literal["float64", "float32"]
Resample = Literal["bilinear", "bicubic"]

_RESAMPLE = {"bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}


@dataclass(frozen=True)
class Fit:
    """How one image becomes a grid of patches.

    Attributes:
        size: (height, width) in pixels that the image is resized to; less than the grid covers where the
            image is padded.
        grid_hw: (h, w), rows and columns of patches.
        patch_size: Side of a patch in pixels.
    """

    size: tuple[int, int]
    grid_hw: tuple[int, int]
    patch_size: int

    @property
    def tokens(self) -> int:
        """Patches of the image."""
        return self.grid_hw[0] * self.grid_hw[1]

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) in pixels that the grid covers."""
        return self.grid_hw[0] * self.patch_size, self.grid_hw[1] * self.patch_size


def plan_fit(
    size: tuple[int, int],
    *,
    patch_size: int,
    tokens: int,
    policy: Policy = "fill",
    oversize: Oversize = "shrink",
    search: Search = "float64",
    name: str = "image",
) -> Fit:
    """Choose the grid of an image.

    - ``fill``: as large as the limit allows, enlarging small images up to 100-fold, as SigLIP2 does.
    - ``shrink-only``: the same with a scale of at most 1. An image within the limit is resized to the next
      multiple of the patch, by less than one patch a side.
    - ``pad-to-patch``: no resampling. The grid covers the image, which is padded at the right and the
      bottom; ``oversize`` says whether an image above the limit is an error or shrunk as by ``fill``.

    Args:
        size: (height, width) of the image in pixels, at least 1.
        patch_size: Side of a patch in pixels.
        tokens: Most patches of the image.
        search: Precision of the size search: float64 as in transformers and timm, float32 as in big_vision.
            The grids differ for a few sizes.
        name: Name of the image in messages.

    Raises:
        ImageError: The image is above the limit and ``oversize`` is "error", or its sides are so unequal
            that no scale brings it below the limit.
    """
    height, width = size
    whole = (-(-height // patch_size), -(-width // patch_size))
    fits = whole[0] * whole[1] <= tokens
    if policy == "pad-to-patch" and fits:
        return Fit(size, whole, patch_size)
    if policy == "pad-to-patch" and oversize == "error":
        raise ImageError(
            f"{name}: expected at most {tokens} patches, found {width}x{height} pixels, "
            f"which are {whole[1]}x{whole[0]} = {whole[0] * whole[1]} patches",
            hint='shrink or tile the image, or set image.oversize = "shrink"',
        )
    grid = whole if policy == "shrink-only" and fits else largest_grid(size, patch_size, tokens, search)
    if grid[0] * grid[1] > tokens:
        raise ImageError(
            f"{name}: no scale brings {width}x{height} pixels to at most {tokens} patches", hint="crop the image"
        )
    return Fit((grid[0] * patch_size, grid[1] * patch_size), grid, patch_size)


def largest_grid(size: tuple[int, int], patch_size: int, tokens: int, search: Search) -> tuple[int, int]:
    """Binary search for the largest scale whose grid, each side rounded up, has at most ``tokens`` patches.

    The steps, in floating point, are those of ``get_image_size_for_max_num_patches`` in transformers and, in
    float32, of ``_get_image_size_for_seq`` in big_vision, as another order of operations gives other grids.
    """
    number = float if search == "float64" else np.float32
    height, width, patch = number(size[0]), number(size[1]), number(patch_size)
    eps = number(1e-5)
    low, high = number(1e-5 / 10), number(100)

    def grid(scale: float | np.float32) -> tuple[int, int]:
        return max(1, math.ceil(height * scale / patch)), max(1, math.ceil(width * scale / patch))

    while high - low >= eps:
        scale = (low + high) / number(2)
        rows, columns = grid(scale)
        if rows * columns <= tokens:
            low = scale
        else:
            high = scale
    return grid(low)


def apply_fit(
    image: Picture,
    fit: Fit,
    *,
    resample: Resample = "bilinear",
    antialias: bool = True,
    background: tuple[int, int, int] = (128, 128, 128),
) -> npt.NDArray[np.uint8]:
    """Resize and pad an RGB image, or draw a page.

    See `resized` for the order of the passes.

    Args:
        resample: Pillow's filter: bilinear as SigLIP2, bicubic as timm's NaFlexVit.
        antialias: Whether the filter widens where the image is shrunk. Without, it is bilinear, as Isaac's.
        background: Colour of padding. The mean that the model subtracts is neutral; 128 is that of SigLIP2,
            0.5, rounded to a pixel.

    Returns:
        [canvas height, canvas width, 3] uint8.
    """
    height, width = fit.size
    if isinstance(image, ScaledJpeg) and not antialias:
        image = image.in_full()
    filtered = _RESAMPLE[resample]
    if not isinstance(image, Image.Image):
        pixels = np.asarray(image.resize((width, height), filtered))
    elif antialias:
        pixels = np.asarray(resized(image, (width, height), filtered))
    else:
        across = _interpolated(np.asarray(image), width, axis=1)
        pixels = _interpolated(across, height, axis=0)
    if fit.size == fit.canvas:
        return pixels
    canvas = np.empty((*fit.canvas, 3), np.uint8)
    canvas[:] = background
    canvas[:height, :width] = pixels
    return canvas


def _interpolated(pixels: npt.NDArray[np.uint8], length: int, axis: int) -> npt.NDArray[np.uint8]:
    """One axis of [H, W, 3], bilinear between the centres of two pixels, as torch's ``interpolate`` of 8-bit images."""
    stored = pixels.shape[axis]
    centres = ((np.arange(length) + 0.5) * (stored / length) - 0.5).clip(0)
    before = centres.astype(np.int64)
    after = np.minimum(before + 1, stored - 1)
    share = np.expand_dims((centres - before).astype(np.float32), [other for other in range(3) if other != axis])
    mixed = pixels.take(before, axis) * (1 - share) + pixels.take(after, axis) * share
    return np.asarray(np.floor(mixed + np.float32(0.5)), np.uint8)
