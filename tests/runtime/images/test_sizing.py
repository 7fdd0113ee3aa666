"""Sizes of vision-language models, against the functions of transformers; Phi-4's and Isaac's against their formula."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from transformers import Lfm2VlImageProcessor
from transformers.models.cosmos3_edge.image_processing_pil_cosmos3_edge import smart_resize as cosmos
from transformers.models.kimi_k25.image_processing_kimi_k25 import navit_resize
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import smart_resize as paddle
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as qwen
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import smart_resize as video_llama

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.core.sizing import FillOwnCount, RoundUp, ShrinkAndPad, SmartResize, SmartTiles
from naflex_deploy.runtime.images.fit import Fit
from naflex_deploy.runtime.images.sizing import plan_tile_grid, plan_whole
from naflex_deploy.runtime.images.tiles import plan_layout

ALL = 10**9
sides = st.one_of(st.integers(1, 60), st.integers(1, 6000))
LFM2 = SmartTiles(
    whole=SmartResize(min_pixels=64 * 1024, max_pixels=256 * 1024, short="block", aspect=None),
    large=2 * 256 * 1024,
    tile=512,
    min_tiles=2,
    max_tiles=10,
)


def planned(size, rule, patch, merge=2, tokens=ALL):
    """The size in pixels; ``None`` where the rule refuses the image."""
    try:
        return plan_whole(size, rule, patch_size=patch, merge=merge, tokens=tokens).size
    except ImageError:
        return None


def theirs(function, *args, **options):
    try:
        return function(*args, **options)
    except ValueError:
        return None


LIMITS = [(56 * 56, 28 * 28 * 1280), (65_536, 16_777_216), (384**2, 1536**2), (256**2, 4096**2)]


@given(sides, sides, st.sampled_from(LIMITS), st.sampled_from([(14, 2), (16, 2), (14, 1)]))
@example(1, 200, LIMITS[0], (14, 2))
@example(1, 201, LIMITS[0], (14, 2))
@example(10, 50, LIMITS[0], (14, 2))
@example(28, 5600, LIMITS[2], (14, 2))
@example(5602, 28, LIMITS[2], (14, 2))
def test_smart_resize(height, width, limits, block):
    (least, most), (patch, merge) = limits, block
    factor = patch * merge

    def rule(short):
        return SmartResize(min_pixels=least, max_pixels=most, short=short)

    limited = {"factor": factor, "min_pixels": least, "max_pixels": most}
    size = (height, width)
    assert planned(size, rule("keep"), patch, merge) == theirs(qwen, *size, **limited)
    assert planned(size, rule("keep"), patch, merge) == theirs(video_llama, *size, **limited)
    assert planned(size, rule("sides"), patch, merge) == theirs(paddle, *size, **limited)
    assert planned(size, rule("scale"), patch, merge) == theirs(cosmos, 1, *size, temporal_factor=1, **limited)


@given(sides, sides)
@example(512, 1024)
@example(512, 1040)
@example(512, 1041)
@example(720, 720)
@example(721, 721)
@example(1000, 1250)
@example(1000, 1251)
@example(1086, 1086)
@example(1087, 1087)
@example(1, 6000)
def test_tiles_of_lfm2_vl(height, width):
    processor = Lfm2VlImageProcessor()
    size = (height, width)
    w, h = processor.smart_resize(*size, 2, 64, 256, 16)
    assert planned(size, LFM2, 16) == (h, w)
    large = processor._is_image_too_large(*size, 256, 16, 2, 2.0)
    columns, rows, *_ = processor._get_grid_layout(*size, 2, 10, 512)
    assert plan_tile_grid(size, LFM2, 16, 2) == ((rows, columns) if large else None)


@pytest.mark.parametrize(("fewest", "most"), [(1, 4), (2, 6), (3, 12), (1, 12), (4, 4)])
def test_ties_between_grids_of_tiles(fewest, most):
    """Ratios in the middle between two grids, where the order in which grids are tried decides."""
    rule = LFM2.model_copy(update={"min_tiles": fewest, "max_tiles": most, "large": 1.0})
    processor = Lfm2VlImageProcessor()
    for width, height in [(w, h) for w in range(250, 4001, 250) for h in range(250, 4001, 250)]:
        columns, rows, *_ = processor._get_grid_layout(height, width, fewest, most, 512)
        assert plan_tile_grid((height, width), rule, 16, 2) == (rows, columns)


@given(sides, sides, st.sampled_from([(16384, 512), (4096, 510), (64, 16)]))
@example(1805, 1805, (16384, 512))
@example(7181, 461, (16384, 512))
@example(13, 7000, (16384, 512))
def test_sizes_of_kimi(height, width, limits):
    most, side = limits
    rule = ShrinkAndPad(max_patches=most, max_side=side)
    fit = plan_whole((height, width), rule, patch_size=14, merge=2, tokens=ALL)
    assert (fit.size, fit.canvas) == navit_resize(height, width, 14, 2, most, side)


def test_the_count_of_kimi_may_exceed_its_limit():
    rule = ShrinkAndPad(max_patches=16384, max_side=512)
    for size, tokens in [((1805, 1805), 16_900), ((7181, 461), 17_408)]:
        assert plan_whole(size, rule, patch_size=14, merge=2, tokens=ALL).tokens == tokens
        assert plan_whole(size, rule, patch_size=14, merge=2, tokens=16_384).tokens <= 16_384


@given(sides, sides)
def test_sizes_of_phi4(height, width):
    rule = FillOwnCount(min_patches=256, max_patches=3600)
    count = min(max((height // 16) * (width // 16), 256), 3600)
    expected = get_image_size_for_max_num_patches(height, width, 16, count)
    assert planned((height, width), rule, 16, merge=1) == expected


def blocks(size, scale):
    return tuple(max(1, math.ceil(side * scale / 32)) for side in size)


def steps(size, low, high):
    """The scales in a range at which a side reaches a whole number of blocks, exactly."""
    return {
        Fraction(32 * count, side)
        for side in size
        for count in range(max(1, math.floor(low * side / 32)), math.ceil(high * side / 32) + 1)
        if low <= Fraction(32 * count, side) <= high
    }


@given(sides, sides, st.sampled_from([(None, 256), (256, 6144), (16, 64)]))
@example(32, 64, (256, 6144))
@example(6000, 3000, (256, 6144))
def test_sizes_of_isaac(height, width, limits):
    """By what its searches are for, as transformers has no class: the largest or smallest scale within the range."""
    fewest, most = limits
    size = (height, width)
    found = planned(size, RoundUp(min_patches=fewest, max_patches=most), 16)

    def patches(scale):
        return math.prod(blocks(size, scale)) * 4

    if (fewest or 0) <= patches(1) <= most:
        expected = {blocks(size, 1)}
    elif patches(1) > most:
        within = [scale for scale in steps(size, 0, 1) if patches(scale) <= most]
        assume(within)
        # The search ends within 1e-5 below the last scale, where another side may have a block less.
        expected = {blocks(size, max(within)), blocks(size, max(within) - Fraction(1, 10**5))}
    else:
        beyond = [scale for scale in steps(size, 1, 100) if patches(scale + Fraction(1, 10**9)) >= fewest]
        assume(beyond)
        expected = {blocks(size, min(beyond) + Fraction(1, 10**step)) for step in (9, 5)}
    assert tuple(side // 32 for side in found) in expected


@given(sides, sides, st.integers(16, 3000))
def test_a_limit_of_tokens_takes_the_place_of_the_models(height, width, tokens):
    rules = [
        SmartResize(min_pixels=65_536, max_pixels=16_777_216),
        ShrinkAndPad(max_patches=16384, max_side=512),
        FillOwnCount(min_patches=256, max_patches=3600),
        RoundUp(min_patches=256, max_patches=6144),
    ]
    for rule in rules:
        try:
            fit = plan_whole((height, width), rule, patch_size=16, merge=2, tokens=tokens, name="a.png")
        except ImageError:
            continue
        assert fit.tokens <= tokens
        assert [side % 2 for side in fit.grid_hw] == [0, 0]
    limited = planned((height, width), rules[0], 16, tokens=tokens)
    reference = {"factor": 32, "min_pixels": min(65_536, tokens * 256), "max_pixels": tokens * 256}
    found = theirs(qwen, height, width, **reference)
    assert limited == (found if found and math.prod(found) <= tokens * 256 else None)


def test_refusals_are_named():
    rule = SmartResize(min_pixels=65_536, max_pixels=16_777_216)
    with pytest.raises(ImageError, match=r"a.png: expected a longer side of at most 200 times the shorter one"):
        plan_whole((10, 2001), rule, patch_size=16, merge=2, tokens=ALL, name="a.png")
    with pytest.raises(ImageError, match=r"a.png: the model's processor brings 3200x16 pixels to 2x142 = 284 patches"):
        plan_whole((16, 3200), rule, patch_size=16, merge=2, tokens=100, name="a.png")


def layout(size, model, **options):
    return plan_layout(size, image=ImageSection(fit="model", **options), model=model, tokens=4096)


def test_the_layout_of_tiles():
    model = Preprocessing(patch_size=16, merge=2, sizing=LFM2)
    found = layout((1000, 1250), model)
    assert found.whole == Fit((448, 544), (28, 34), 16)
    assert found.page == Fit((1536, 1536), (96, 96), 16)
    assert [(tile.corner, tile.grid_hw) for tile in found.tiles[:4]] == [
        ((0, 0), (32, 32)),
        ((0, 32), (32, 32)),
        ((0, 64), (32, 32)),
        ((32, 0), (32, 32)),
    ]
    assert len(found.tiles) == 9
    assert found.boxes((1000, 1250))[0] == (0, 0, 1250, 1000)
    assert found.boxes((1000, 1250))[1] == pytest.approx((0, 0, 1250 / 3, 1000 / 3))
    assert not layout((300, 300), model).tiles


def test_tiles_that_do_not_fit_are_refused():
    model = Preprocessing(patch_size=16, merge=2, sizing=LFM2)
    with pytest.raises(ImageError, match="tiles of 32x32 patches, expected at most 1000 patches"):
        plan_layout((1000, 1250), image=ImageSection(fit="model"), model=model, tokens=1000)
    with pytest.raises(ImageError, match="in whole blocks of 6x6"):
        layout((1000, 1250), model, multiple=3)


def test_grids_are_even_whatever_the_profile_asks_for():
    model = Preprocessing(patch_size=16, merge=2, sizing=SmartResize(min_pixels=65_536, max_pixels=16_777_216))
    for fit in ("fill", "shrink-only", "pad-to-patch", "tiles", "model"):
        found = plan_layout((333, 777), image=ImageSection(fit=fit), model=model, tokens=500)
        assert [side % 2 for side in found.whole.grid_hw] == [0, 0]
        assert all(side % 2 == 0 for tile in found.tiles for side in (*tile.grid_hw, *tile.corner))
    assert layout((333, 777), Preprocessing(patch_size=16)).whole.tokens <= 4096


def test_a_model_sizes_alone():
    with pytest.raises(ValueError, match='oversize = "tiles" has no effect with fit = "model"'):
        ImageSection(fit="model", oversize="tiles")
