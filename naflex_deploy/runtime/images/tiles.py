"""Pages too large for one image: the whole of it, and overlapping tiles at a stated density.

A page of 1,024 tokens is too coarse to read: Letter has 53 pixels an inch then. Tiles are parts of the page's own
patch grid, all of one size, so that their tokens can be put together to one grid again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.core.sizing import Sizing, SmartTiles
from naflex_deploy.runtime.images.fit import Fit, Policy, plan_fit
from naflex_deploy.runtime.images.sizing import plan_tile_grid, plan_whole

Scalar = TypeVar("Scalar", bound=np.generic)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tile:
    """A part of a page's patch grid.

    Attributes:
        corner: (row, column) of its first patch.
        grid_hw: Its rows and columns.
    """

    corner: tuple[int, int]
    grid_hw: tuple[int, int]

    def cut(self, page: Patches) -> Patches:
        """Its patches of those of the page."""
        (row, column), (height, width) = self.corner, self.grid_hw
        grid = page.pixels.reshape(*page.grid_hw, -1)[row : row + height, column : column + width]
        return Patches(grid.reshape(height * width, -1), self.grid_hw)


@dataclass(frozen=True)
class Layout:
    """The images that a frame becomes.

    Attributes:
        whole: The frame as one image.
        page: The frame at the density of its tiles, ``None`` where there are none.
        tiles: Row by row.
    """

    whole: Fit
    page: Fit | None = None
    tiles: tuple[Tile, ...] = ()

    def refined(self, factor: int) -> Layout:
        """The same pixels in patches of a ``factor``-th of the side."""

        def fit(coarse: Fit) -> Fit:
            (h, w), side = coarse.grid_hw, coarse.patch_size // factor
            return replace(coarse, grid_hw=(h * factor, w * factor), patch_size=side)

        tiles = (
            Tile((y * factor, x * factor), (h * factor, w * factor))
            for (y, x), (h, w) in ((tile.corner, tile.grid_hw) for tile in self.tiles)
        )
        return Layout(fit(self.whole), fit(self.page) if self.page else None, tuple(tiles))

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """(left, top, right, bottom) of each image in pixels of a frame of (height, width) ``size``."""
        height, width = size
        whole = (0, 0, width, height)
        if self.page is None:
            return [whole]
        patch = self.page.patch_size
        down, across = patch * height / self.page.size[0], patch * width / self.page.size[1]
        corners = [(tile.corner, tile.grid_hw) for tile in self.tiles]
        return [whole, *((x * across, y * down, (x + w) * across, (y + h) * down) for (y, x), (h, w) in corners)]


def plan_layout(
    size: tuple[int, int],
    *,
    image: ImageSection,
    model: Preprocessing,
    tokens: int,
    dpi: float | None = None,
    name: str = "image",
) -> Layout:
    """Choose how a frame becomes images.

    Args:
        size: (height, width) of the frame in pixels.
        image: Of the profile: what to do with a frame below and above the limit.
        tokens: Most patches of an image.
        dpi: Pixels of the frame per inch. A frame of more than ``image.dpi`` is cut into tiles at that, one of less
            or of an unknown density at its own.
        name: Name of the frame in messages.

    Raises:
        ImageError: The frame is above the limit and may not be cut or shrunk, or would need too many tiles.
    """
    factor = math.lcm(image.multiple, model.merge)
    if image.fit == "model" and model.sizing is not None:
        return _plan_as_model(size, model.sizing, model.patch_size, factor, tokens, name)
    if factor > 1:
        coarse = image.model_copy(update={"multiple": 1, "overlap": -(-image.overlap // factor)})
        model = model.model_copy(update={"patch_size": model.patch_size * factor, "merge": 1})
        layout = plan_layout(size, image=coarse, model=model, tokens=tokens // factor**2, dpi=dpi, name=name)
        return layout.refined(factor)
    policy: Policy = "shrink-only" if image.fit == "tiles" else "fill" if image.fit == "model" else image.fit
    if image.tiled:
        page = _plan_page(size, model.patch_size, policy, min(1.0, image.dpi / dpi) if dpi else 1.0)
        if page.tokens > tokens:
            tiles = plan_tiles(page.grid_hw, tokens=tokens, overlap=image.overlap, most=image.max_tiles, name=name)
            whole = plan_fit(size, patch_size=model.patch_size, tokens=tokens, search=model.search, name=name)
            return Layout(whole, page, tiles)
        if image.fit == "tiles":
            return Layout(page)
    whole = plan_fit(
        size,
        patch_size=model.patch_size,
        tokens=tokens,
        policy=policy,
        oversize="error" if image.oversize == "error" else "shrink",
        search=model.search,
        name=name,
    )
    return Layout(whole)


def _plan_as_model(size: tuple[int, int], rule: Sizing, patch: int, merge: int, tokens: int, name: str) -> Layout:
    """The images that the model's own processor makes of a frame."""
    whole = plan_whole(size, rule, patch_size=patch, merge=merge, tokens=tokens, name=name)
    found = plan_tile_grid(size, rule, patch, merge) if isinstance(rule, SmartTiles) else None
    if found is None or not isinstance(rule, SmartTiles):
        return Layout(whole)
    (rows, columns), side = found, rule.tile // patch
    if rule.tile % (patch * merge) or side * side > tokens:
        raise ImageError(
            f"{name}: the model cuts it into tiles of {side}x{side} patches, expected at most {tokens} patches in "
            f"whole blocks of {merge}x{merge}",
            hint="raise image.tokens and packing.budgets, or lower image.multiple, and build again",
        )
    page = Fit((rows * rule.tile, columns * rule.tile), (rows * side, columns * side), patch)
    tiles = tuple(Tile((row * side, column * side), (side, side)) for row in range(rows) for column in range(columns))
    return Layout(page) if len(tiles) == 1 else Layout(whole, page, tiles)


def _plan_page(size: tuple[int, int], patch: int, policy: Policy, scale: float) -> Fit:
    """The whole frame as one grid of any size, padded where ``policy`` says so, or else resized to whole patches."""
    if policy == "pad-to-patch":
        return Fit(size, (-(-size[0] // patch), -(-size[1] // patch)), patch)
    height, width = (-(-max(1, round(side * scale)) // patch) for side in size)
    return Fit((height * patch, width * patch), (height, width), patch)


def plan_tiles(
    grid_hw: tuple[int, int], *, tokens: int, overlap: int, most: int = 64, name: str = "image"
) -> tuple[Tile, ...]:
    """Cover a grid with tiles of one size, spread evenly, at the least cost; of these the nearest to a square.

    The cost is the tokens of all tiles, each taken as one row and one column larger: what lies at a border is seen
    from one side, so few borders are worth some tokens.

    Args:
        grid_hw: (rows, columns) of patches.
        tokens: Most patches of a tile, more than the square of ``overlap``.
        overlap: Fewest patches that neighbours share.
        most: Tiles allowed.

    Raises:
        ImageError: More are needed.
    """
    rows, columns = grid_hw
    best: tuple[int, float, int, int] | None = None
    for down in range(1, most + 1):
        for across in range(1, most // down + 1):
            height, width = _span(rows, down, overlap), _span(columns, across, overlap)
            if height * width > tokens or (down > 1 and height <= overlap) or (across > 1 and width <= overlap):
                continue
            cost = down * across * (height + 1) * (width + 1)
            choice = (cost, max(height / width, width / height), down, across)
            best = choice if best is None else min(best, choice)
    if best is None:
        raise ImageError(
            f"{name}: expected at most {most} tiles of {tokens} patches, found {columns}x{rows} patches, "
            f"which need {max(most + 1, -(-rows * columns // tokens))} or more",
            hint="shrink or crop it, lower image.dpi, or raise image.max_tiles",
        )
    *_, down, across = best
    height, width = _span(rows, down, overlap), _span(columns, across, overlap)
    return tuple(
        Tile((row, column), (height, width))
        for row in _starts(rows, height, down)
        for column in _starts(columns, width, across)
    )


def _span(side: int, count: int, overlap: int) -> int:
    """The shortest tiles of which ``count`` cover a side."""
    return -(-(side + (count - 1) * overlap) // count)


def _starts(side: int, span: int, count: int) -> list[int]:
    return [index * (side - span) // max(1, count - 1) for index in range(count)]


def stitch(tiles: Sequence[tuple[Box, npt.NDArray[Scalar]]]) -> npt.NDArray[Scalar]:
    """Put the tokens of a page's tiles together, each token from the tile in whose middle it lies most.

    Args:
        tiles: The box of each, in any one unit, and its [h, w, D] tokens.

    Returns:
        [rows, columns, D] of the page.
    """
    corners = []
    for (left, top, right, bottom), tokens in tiles:
        height, width = tokens.shape[:2]
        corners.append((round(top * height / (bottom - top)), round(left * width / (right - left))))
    height, width, depth = tiles[0][1].shape
    ys, xs = (sorted(set(starts)) for starts in zip(*corners, strict=True))
    page = np.empty((ys[-1] + height, xs[-1] + width, depth), tiles[0][1].dtype)
    rows, columns = _seams(ys, height), _seams(xs, width)
    for (y, x), (_, tokens) in zip(corners, tiles, strict=True):
        (top, bottom), (left, right) = rows[y], columns[x]
        page[top:bottom, left:right] = tokens[top - y : bottom - y, left - x : right - x]
    return page


def _seams(starts: Sequence[int], span: int) -> dict[int, tuple[int, int]]:
    """For the tiles that begin at each place: from where to where their tokens are taken, to the middle of overlaps."""
    middles = [(start + span + after) // 2 for start, after in pairwise(starts)]
    edges = [0, *middles, starts[-1] + span]
    return dict(zip(starts, pairwise(edges), strict=True))
