"""Choose the size of an image as the image processor of a vision-language model does.

The steps, in floating point, are those of the processors in transformers 5.23, as another order of operations gives
other sizes; Phi-4-reasoning-vision's and Isaac's are those of the code that is published with their checkpoints. A
profile's limit of tokens takes the place of a model's own where it is lower.
"""

from __future__ import annotations

import math

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.sizing import FillOwnCount, RoundUp, ShrinkAndPad, Sizing, SmartResize, SmartTiles
from naflex_deploy.runtime.images.fit import Fit, largest_grid

Size = tuple[int, int]


def plan_whole(size: Size, rule: Sizing, *, patch_size: int, merge: int, tokens: int, name: str = "image") -> Fit:
    """The size of an image that is not cut into tiles, or of the thumbnail of one that is.

    Args:
        size: (height, width) of the image in pixels, at least 1.
        patch_size: Side of a patch in pixels.
        merge: Patches a side of a block; both sides of the grid are multiples of it.
        tokens: Most patches of the image.
        name: Name of the image in messages.

    Raises:
        ImageError: The rule refuses the image, or brings it to more than ``tokens``.
    """
    block = patch_size * merge
    match rule:
        case SmartTiles():
            resized = smart_resize(size, rule.whole, block, tokens * patch_size**2, name)
        case SmartResize():
            resized = smart_resize(size, rule, block, tokens * patch_size**2, name)
        case ShrinkAndPad():
            return _shrunk_and_padded(size, rule, patch_size, merge, tokens, name)
        case FillOwnCount():
            own = max((size[1] // block) * (size[0] // block), 1) * merge**2
            count = min(max(own, rule.min_patches), rule.max_patches, tokens)
            h, w = largest_grid(size, block, count // merge**2, "float64")
            resized = h * block, w * block
        case RoundUp():
            resized = _rounded_up(size, rule, patch_size, block, tokens)
    return _within(Fit(resized, (resized[0] // patch_size, resized[1] // patch_size), patch_size), size, tokens, name)


def plan_clip(
    size: Size, rule: SmartResize, frames: int, *, patch_size: int, merge: int, tokens: int, name: str = "clip"
) -> Fit:
    """The size of each frame of a clip.

    Args:
        frames: Those that are taken of the clip, at least 1.
        tokens: Most patches of a frame, or of the two that a patch spans.

    Raises:
        ImageError: The rule refuses the clip, or brings a frame to more than ``tokens``.
    """
    h, w = smart_resize(size, rule, patch_size * merge, tokens * patch_size**2, name, frames)
    return _within(Fit((h, w), (h // patch_size, w // patch_size), patch_size), size, tokens, name)


def plan_tile_grid(size: Size, rule: SmartTiles, patch_size: int, merge: int) -> Size | None:
    """(rows, columns) of tiles of a large image, ``None`` for a small one.

    Args:
        size: (height, width) of the image in pixels.
        patch_size: Side of a patch in pixels.
        merge: Patches a side of a block.
    """
    height, width = size
    block = patch_size * merge
    rounded = (max(patch_size, round(side / block) * block) for side in size)
    if math.prod(rounded) <= rule.large:
        return None
    shapes = {
        (columns, rows)
        for columns in range(1, rule.max_tiles + 1)
        for rows in range(1, rule.max_tiles + 1)
        if rule.min_tiles <= columns * rows <= rule.max_tiles
    }
    best, nearest = (1, 1), math.inf
    for columns, rows in sorted(shapes, key=math.prod):
        distance = abs(width / height - columns / rows)
        roomy = width * height > 0.5 * rule.tile**2 * columns * rows
        if distance < nearest or (distance == nearest and roomy):
            best, nearest = (columns, rows), distance
    return best[1], best[0]


def smart_resize(size: Size, rule: SmartResize, block: int, most: int, name: str, frames: int = 1) -> Size:
    """(height, width) in multiples of a block.

    Args:
        most: Limit of pixels of a frame in the place of the rule's where it is lower.
        frames: Frames of a clip, to the pixels of all of which the limits of the rule apply.

    Raises:
        ImageError: The sides are too unequal.
    """
    height, width = size
    # Qwen3-VL counts the frames of whole pairs, to the nearest, and takes the root of all frames.
    counted = round(frames / 2) * 2 if frames > 1 else 1
    max_pixels = min(rule.max_pixels, most * counted)
    min_pixels = min(rule.min_pixels, max_pixels)
    if rule.short == "sides":
        if height < block:
            height, width = block, round(width * block / height)
        if width < block:
            height, width = round(height * block / width), block
    elif rule.short == "scale" and min(height, width) < block:
        scale = max(block / height, block / width)
        height, width = int(height * scale), int(width * scale)
    if rule.aspect is not None and max(height, width) / min(height, width) > rule.aspect:
        raise ImageError(
            f"{name}: expected a longer side of at most {rule.aspect} times the shorter one, as the model's processor "
            f"does, found {size[1]}x{size[0]} pixels",
            hint='crop the image, or choose its size by another rule than image.fit = "model"',
        )
    least = block if rule.short == "block" else 0
    h, w = (max(least, round(side / block) * block) for side in (height, width))
    if counted * h * w > max_pixels:
        scale = math.sqrt((frames * height * width) / max_pixels)
        h, w = (max(block, math.floor(side / scale / block) * block) for side in (height, width))
    elif counted * h * w < min_pixels:
        scale = math.sqrt(min_pixels / (frames * height * width))
        h, w = (math.ceil(side * scale / block) * block for side in (height, width))
    return h, w


def _shrunk_and_padded(size: Size, rule: ShrinkAndPad, patch_size: int, merge: int, tokens: int, name: str) -> Fit:
    """Kimi's size; with a profile's limit below the model's own, the largest whose padded grid stays within it."""
    limit = min(rule.max_patches, tokens)
    found = _navit_resize(size, limit, rule.max_side, patch_size, merge)
    while found.tokens > tokens and limit > 1:
        limit = max(1, limit - (found.tokens - tokens))
        found = _navit_resize(size, limit, rule.max_side, patch_size, merge)
    return _within(found, size, tokens, name)


def _navit_resize(size: Size, patches: int, side: int, patch_size: int, merge: int) -> Fit:
    height, width = size
    count = max(1, height // patch_size) * max(1, width // patch_size)
    most = side * patch_size
    scale = min(1.0, math.sqrt(patches / count), most / height, most / width)
    h, w = (min(max(1, int(length * scale)), most) for length in size)
    block = patch_size * merge
    return Fit((h, w), (-(-h // block) * merge, -(-w // block) * merge), patch_size)


def _rounded_up(size: Size, rule: RoundUp, patch_size: int, block: int, tokens: int) -> Size:
    """Isaac's size, by its searches for a scale."""
    most = min(rule.max_patches, tokens)
    least = min(rule.min_patches or 0, most)

    def scaled(scale: float) -> Size:
        h, w = (max(block, math.ceil(scale * side / block) * block) for side in size)
        return h, w

    def patches(scale: float) -> float:
        h, w = scaled(scale)
        return (h / patch_size) * (w / patch_size)

    eps = 1e-5
    if patches(1.0) < least:
        low, high = 1.0, 100.0
        while high - low >= eps:
            middle = (low + high) / 2
            low, high = (low, middle) if patches(middle) >= least else (middle, high)
        return scaled(high)
    if patches(1.0) <= most:
        return scaled(1.0)
    low, high = eps / 10, 1.0
    while high - low >= eps:
        middle = (low + high) / 2
        low, high = (middle, high) if patches(middle) <= most else (low, middle)
    return scaled(low)


def _within(fit: Fit, size: Size, tokens: int, name: str) -> Fit:
    if fit.tokens > tokens:
        raise ImageError(
            f"{name}: the model's processor brings {size[1]}x{size[0]} pixels to {fit.grid_hw[0]}x{fit.grid_hw[1]} = "
            f"{fit.tokens} patches, expected at most {tokens}",
            hint="crop the image, or raise image.tokens and packing.budgets and build again",
        )
    return fit
