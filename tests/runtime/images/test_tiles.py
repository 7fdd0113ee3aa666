"""Tiles cover a page at the requested density, and their tokens join to one grid again."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.fit import apply_fit, plan_fit
from naflex_deploy.runtime.images.tiles import Layout, plan_layout, plan_tiles, stitch

MODEL = Preprocessing(patch_size=16)
A4 = (11.69, 8.27)


def layout(size: tuple[int, int], tokens: int = 1024, dpi: float | None = None, **image: object) -> Layout:
    section = ImageSection.model_validate({"fit": "tiles", **image})
    return plan_layout(size, image=section, model=MODEL, tokens=tokens, dpi=dpi, name="page.png")


def count(side: int, span: int, overlap: int) -> float:
    """How many tiles cover a side, laid one after another; infinite where none would follow the first."""
    if span <= overlap and span < side:
        return math.inf
    laid, reached = 1, span
    while reached < side:
        laid, reached = laid + 1, reached - overlap + span
    return laid


def fewest_tiles(rows: int, columns: int, tokens: int, overlap: int) -> float:
    """Over all heights of a tile, each with the greatest width that its tokens allow."""
    return min(
        count(rows, height, overlap) * count(columns, tokens // height, overlap)
        for height in range(1, min(rows, tokens) + 1)
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 300), st.integers(0, 5))
@example(25, 148, 64, 0)  # Less than the area of 64 tiles of 8x8 patches, but no shape of a tile covers it in 64.
def test_tiles_cover_the_page_and_overlap(rows: int, columns: int, tokens: int, overlap: int) -> None:
    assume(overlap < math.isqrt(tokens))
    try:
        tiles = plan_tiles((rows, columns), tokens=tokens, overlap=overlap)
    except ImageError:
        assert fewest_tiles(rows, columns, tokens, overlap) > 64, "refused although tiles of some shape would do"
        return
    ((height, width),) = {tile.grid_hw for tile in tiles}
    assert height * width <= tokens
    assert len(tiles) <= 64
    assert [tile.corner for tile in tiles] == sorted({tile.corner for tile in tiles})
    covered = np.zeros((rows, columns), bool)
    for tile in tiles:
        row, column = tile.corner
        part = covered[row : row + height, column : column + width]
        assert part.shape == (height, width), "a tile lies on the page"
        part[:] = True
    assert covered.all()
    for axis, span in enumerate((height, width)):
        starts = sorted({tile.corner[axis] for tile in tiles})
        assert all(before + span - after >= overlap for before, after in pairwise(starts))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(9, 60), st.integers(0, 2))
def test_no_other_tiles_cost_less(rows: int, columns: int, tokens: int, overlap: int) -> None:
    def cost(height: int, width: int) -> float:
        return count(rows, height, overlap) * count(columns, width, overlap) * (height + 1) * (width + 1)

    tiles = plan_tiles((rows, columns), tokens=tokens, overlap=overlap, most=2000)
    height, width = tiles[0].grid_hw
    heights = [h for h in range(1, rows + 1) if h > overlap or h == rows]
    widths = [w for w in range(1, columns + 1) if w > overlap or w == columns]
    sizes = [(h, w) for h in heights for w in widths if h * w <= tokens]
    assert len(tiles) * (height + 1) * (width + 1) == min(cost(*size) for size in sizes)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([16, 64, 256]), st.sampled_from([0, 1, 3]))
def test_tokens_of_tiles_make_the_page_again(height: int, width: int, tokens: int, overlap: int) -> None:
    assume(height * width < 500_000 * tokens / 256)
    plan = layout((height, width), tokens, overlap=overlap, max_tiles=5000)
    assume(plan.page is not None)
    assert plan.page is not None
    page = Patches(np.random.default_rng(0).integers(0, 256, (plan.page.tokens, 3), np.uint8), plan.page.grid_hw)
    boxes = plan.boxes((height, width))[1:]
    tokens_of = [tile.cut(page).pixels.reshape(*tile.grid_hw, 3) for tile in plan.tiles]
    stitched = stitch(list(zip(boxes, tokens_of, strict=True)))
    assert np.array_equal(stitched, page.pixels.reshape(*plan.page.grid_hw, 3))


def test_a_stitched_token_is_that_of_the_tile_in_whose_middle_it_lies() -> None:
    tiles = plan_tiles((31, 47), tokens=150, overlap=4)
    height, width = tiles[0].grid_hw
    boxes = [(x, y, x + w, y + h) for (y, x), (h, w) in ((tile.corner, tile.grid_hw) for tile in tiles)]
    numbered = [(box, np.full((height, width, 1), number)) for number, box in enumerate(boxes)]
    found = stitch(numbered)[..., 0]
    for (row, column), number in np.ndenumerate(found):
        inside = [
            (abs(row + 0.5 - (top + bottom) / 2), abs(column + 0.5 - (left + right) / 2))
            for left, top, right, bottom in boxes
            if top <= row < bottom and left <= column < right
        ]
        left, top, right, bottom = boxes[number]
        chosen = (abs(row + 0.5 - (top + bottom) / 2), abs(column + 0.5 - (left + right) / 2))
        assert chosen[0] <= min(rows for rows, _ in inside) + 1
        assert chosen[1] <= min(columns for _, columns in inside) + 1


def test_a_page_within_the_limit_is_one_image_at_its_density() -> None:
    assert layout((400, 300)).page is None
    assert layout((400, 300)).whole.size == (400, 304), "to whole patches, not enlarged to fill 1024 of them"
    assert layout((800, 600), dpi=300).whole.size == (400, 304), "tiles are cut at 150 pixels an inch"
    small = layout((400, 300), fit="fill", oversize="tiles")
    assert small.whole == plan_fit((400, 300), patch_size=16, tokens=1024)


@pytest.mark.parametrize("dpi", [150, 200, 300, 600])
def test_pages_are_tiled_at_the_stated_density(dpi: int) -> None:
    height, width = (round(side * dpi) for side in A4)
    plan = layout((height, width), dpi=dpi, max_tiles=16)
    assert plan.page is not None
    for pixels, inches in zip(plan.page.size, A4, strict=True):
        assert 150 <= pixels / inches < 150 + 16 / inches
    assert plan.whole == plan_fit((height, width), patch_size=16, tokens=1024)
    unknown = layout((height, width), max_tiles=500)
    assert unknown.page is not None
    assert unknown.page.size == tuple(-(-side // 16) * 16 for side in (height, width))


def test_coarser_pages_are_not_enlarged() -> None:
    plan = layout((1000, 700), tokens=256, dpi=72)
    assert plan.page is not None
    assert plan.page.size == (1008, 704)


def test_padded_pages_are_never_resampled() -> None:
    plan = layout((1000, 700), tokens=256, dpi=300, fit="pad-to-patch", oversize="tiles")
    assert plan.page is not None
    assert (plan.page.size, plan.page.grid_hw) == ((1000, 700), (63, 44))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1000, 700, 3), dtype=np.uint8))
    canvas = apply_fit(image, plan.page)
    for tile, box in zip(plan.tiles, plan.boxes((1000, 700))[1:], strict=True):
        left, top, right, bottom = (int(side) for side in box)
        assert (left, top) == (16 * tile.corner[1], 16 * tile.corner[0])
        source = np.asarray(image)[top:bottom, left:right]
        assert np.array_equal(canvas[top:bottom, left:right][: len(source), : source.shape[1]], source)


def test_too_many_tiles_are_refused() -> None:
    with pytest.raises(ImageError, match=r"page\.png: expected at most 3 tiles of 64 patches, found 40x40 patches"):
        layout((640, 640), tokens=64, max_tiles=3)
    with pytest.raises(ImageError, match="which need 2442 or more"):
        layout((1, 40_000_000))
    strip = layout((59, 59_055))
    assert len(strip.tiles) == 15, "10 m x 1 cm at 150 dpi: tiles take the shape of the page"
    assert {tile.grid_hw[0] for tile in strip.tiles} == {4}


def test_text_of_8_points_is_readable_in_tiles_of_a_scan() -> None:
    """Heights of drawn letters, counted in pixels of the tiles: of x about 8, of H about 12. In one image: 3 and 4."""
    scanned = 300
    page = Image.new("L", tuple(round(side * scanned) for side in reversed(A4)), 255)
    font = ImageFont.load_default(8 / 72 * scanned)
    draw = ImageDraw.Draw(page)
    for column, letter in enumerate("xH"):
        draw.text((400 + 300 * column, 1600), letter, 0, font)
    plan = layout((page.height, page.width), dpi=scanned)
    assert plan.page is not None

    def heights(fit: object) -> list[int]:
        pixels = apply_fit(page.convert("RGB"), fit)[..., 0]  # type: ignore[arg-type]
        middle = round(550 / page.width * pixels.shape[1])
        return [int((part.min(1) < 128).sum()) for part in (pixels[:, :middle], pixels[:, middle:])]

    x, capital = heights(plan.page)
    assert x >= 7
    assert capital >= 10
    assert heights(plan.whole)[0] <= 4


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    st.sampled_from([16, 100, 256, 1024]),
    st.sampled_from(["fill", "shrink-only", "pad-to-patch", "tiles"]),
    st.sampled_from([2, 3]),
)
def test_grids_are_multiples_with_the_pixels_of_larger_patches(
    size: tuple[int, int], tokens: int, fit: str, multiple: int
) -> None:
    """Blocks of patches are laid out as patches of their size would be."""

    def planned(model: Preprocessing, tokens: int, **image: object) -> Layout | str:
        section = ImageSection.model_validate({"fit": fit, **image})
        try:
            return plan_layout(size, image=section, model=model, tokens=tokens)
        except ImageError as error:
            return str(error)

    found = planned(MODEL, tokens, multiple=multiple)
    coarse = planned(Preprocessing(patch_size=16 * multiple), tokens // multiple**2, overlap=1)
    if isinstance(found, str) or isinstance(coarse, str):
        assert found == coarse
        return
    assert (found.whole.size, found.whole.canvas) == (coarse.whole.size, coarse.whole.canvas)
    np.testing.assert_allclose(found.boxes(size), coarse.boxes(size), rtol=1e-12)
    assert found.whole.patch_size == 16
    assert found.whole.tokens <= tokens or fit == "tiles"
    for grid in (found.whole.grid_hw, *(tile.grid_hw for tile in found.tiles), *(t.corner for t in found.tiles)):
        assert all(side % multiple == 0 for side in grid)
