import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Resampling
from timm.data.naflex_transforms import get_image_size_for_seq
from torchvision.transforms.v2 import functional as transforms
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    get_image_size_for_max_num_patches,
)

from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.images import resampling
from naflex_deploy.runtime.images.fit import Fit, apply_fit, plan_fit
from naflex_deploy.runtime.images.patchify import patchify
from tests.support.training_pixels import cases, picture, summary

sides = st.one_of(st.integers(1, 40), st.integers(1, 6000))
patch_sizes = st.integers(1, 32)
limits = st.integers(1, 4096)


def photo(width, height):
    """Smooth colours with some noise."""
    y, x = np.mgrid[:height, :width] / 40
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2) * 100 + 128
    noise = np.random.default_rng(0).normal(0, 20, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


@settings(max_examples=600, deadline=None)
@given(sides, sides, patch_sizes, limits)
@example(1, 1, 16, 256)
@example(1, 100_000, 16, 256)
@example(63, 241, 16, 16)
def test_fill_is_the_size_search_of_transformers_and_timm(height, width, patch_size, tokens):
    fit = plan_fit((height, width), patch_size=patch_size, tokens=tokens)
    assert fit.size == get_image_size_for_max_num_patches(height, width, patch_size, tokens)
    assert fit.size == get_image_size_for_seq((height, width), patch_size, tokens, eps=1e-5)[1]
    assert fit.size == fit.canvas
    assert fit.tokens <= tokens


@pytest.mark.exhaustive
def test_grids_of_many_sizes_are_those_of_transformers_and_timm():
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(0, np.log(8000), (6009, 2))).astype(int)
    compared = 0
    for height, width in sizes.tolist():
        for patch_size, tokens in ((16, 256), (14, 729), (32, 1024)):
            fit = plan_fit((height, width), patch_size=patch_size, tokens=tokens)
            assert fit.size == get_image_size_for_max_num_patches(height, width, patch_size, tokens)
            assert fit.size == get_image_size_for_seq((height, width), patch_size, tokens, eps=1e-5)[1]
            compared += 1
    assert compared == 18_027


@pytest.mark.parametrize(
    ("size", "patch_size", "tokens", "expected"),
    [((63, 241), 16, 16, (32, 128)), ((112, 109), 7, 225, (105, 105)), ((256, 64), 8, 15, (56, 16))],
)
def test_float32_search_gives_the_sizes_of_big_vision(size, patch_size, tokens, expected):
    assert plan_fit(size, patch_size=patch_size, tokens=tokens, search="float32").size == expected


def big_vision_size(size, patch_size, tokens):
    """The steps of big_vision's search on float32 arrays, as TensorFlow runs them."""
    size = np.array(size, np.float32)
    patch = np.float32(patch_size)
    low, high = np.float32(1e-6), np.float32(100)

    def target(ratio):
        return np.maximum(patch * np.ceil(size * ratio / patch), patch).astype(np.int32)

    while high - low >= np.float32(1e-5):
        middle = (low + high) / np.float32(2)
        if np.prod(target(middle) / patch_size) <= tokens:
            low = middle
        else:
            high = middle
    return tuple(target(low).tolist())


@settings(max_examples=300, deadline=None)
@given(sides, sides, patch_sizes, limits)
def test_float32_search(height, width, patch_size, tokens):
    fit = plan_fit((height, width), patch_size=patch_size, tokens=tokens, search="float32")
    assert fit.size == big_vision_size((height, width), patch_size, tokens)


def test_the_two_searches_differ_for_some_sizes():
    """Where a row and a column are gained within 1e-5 of the scale: about one large image in 150,000."""
    size = (8871, 11827)
    assert plan_fit(size, patch_size=14, tokens=128).size == (126, 168)
    assert get_image_size_for_max_num_patches(*size, 14, 128) == (126, 168)
    assert plan_fit(size, patch_size=14, tokens=128, search="float32").size == (140, 168)
    assert big_vision_size(size, 14, 128) == (140, 168)


@settings(max_examples=300, deadline=None)
@given(sides, sides, patch_sizes, limits)
def test_shrink_only_never_enlarges_beyond_the_next_patch(height, width, patch_size, tokens):
    options = {"patch_size": patch_size, "tokens": tokens}
    fit = plan_fit((height, width), policy="shrink-only", **options)
    rounded_up = tuple(-(-side // patch_size) * patch_size for side in (height, width))
    if rounded_up[0] * rounded_up[1] <= tokens * patch_size**2:
        assert fit.size == fit.canvas == rounded_up
    else:
        assert fit == plan_fit((height, width), **options)
        assert fit.size[0] <= rounded_up[0]
        assert fit.size[1] <= rounded_up[1]


@settings(max_examples=300, deadline=None)
@given(sides, sides, patch_sizes, limits)
def test_pad_to_patch_keeps_the_pixels_of_an_image_within_the_limit(height, width, patch_size, tokens):
    options = {"patch_size": patch_size, "tokens": tokens, "policy": "pad-to-patch"}
    grid = (-(-height // patch_size), -(-width // patch_size))
    if grid[0] * grid[1] <= tokens:
        assert plan_fit((height, width), **options) == Fit((height, width), grid, patch_size)
        return
    with pytest.raises(ImageError, match=rf"photo\.png: expected at most {tokens} patches, found {width}x{height}"):
        plan_fit((height, width), oversize="error", name="photo.png", **options)
    assert plan_fit((height, width), oversize="shrink", **options) == plan_fit(
        (height, width), patch_size=patch_size, tokens=tokens
    )


def test_extreme_sides():
    for policy in ("fill", "shrink-only", "pad-to-patch"):
        fit = plan_fit((1, 100_000), patch_size=16, tokens=256, policy=policy)
        assert fit.grid_hw[0] == 1
        assert 250 <= fit.grid_hw[1] <= 256
        assert apply_fit(Image.new("RGB", (100_000, 1), "red"), fit)[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(ImageError, match="no scale brings 40000000x1 pixels to at most 1 patches"):
        plan_fit((1, 40_000_000), patch_size=16, tokens=1)


RECORDED = json.loads((Path(__file__).parent / "recorded" / "training_pixels.json").read_text())


@pytest.mark.parametrize(("reader", "resample"), [("transformers", "bilinear"), ("timm", "bicubic")])
def test_patches_are_those_of_the_training_code_whatever_pillow_is_installed(reader, resample):
    """Recorded under Pillow 12.3: the PIL backend of transformers and timm's eval transform, 72 pairs each."""
    assert RECORDED["pillow"] == "12.3.0"
    found = {}
    for name, (width, height), budget in cases():
        fit = plan_fit((height, width), patch_size=16, tokens=budget)
        patches = patchify(apply_fit(picture(width, height), fit, resample=resample), 16)
        found[f"{reader}: {name}"] = summary(patches.pixels, patches.grid_hw)
    assert len(found) == 72
    expected = {name: value for name, value in RECORDED["digests"].items() if name.startswith(reader)}
    assert found == expected


def test_a_sliver_starts_with_its_height(monkeypatch):
    """The order of the passes shows in the pixels."""
    image = photo(30, 900)
    fit = Fit((80, 112), (5, 7), 16)
    width_first = apply_fit(image, fit, resample="bicubic")
    monkeypatch.setattr(resampling, "MOST_BETWEEN", 112 * 900 - 1)
    found = apply_fit(image, fit, resample="bicubic")
    assert not np.array_equal(found, width_first)
    height_first = image.resize((30, 80), Resampling.BICUBIC).resize((112, 80), Resampling.BICUBIC)
    assert np.array_equal(found, np.asarray(height_first))


@pytest.mark.parametrize(("width", "height"), [(640, 480), (37, 21)])
def test_torchvision_differs_by_at_most_one_level(width, height):
    image = photo(width, height)
    fit = plan_fit((height, width), patch_size=16, tokens=128)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    expected = transforms.resize(tensor, list(fit.size), antialias=True).permute(1, 2, 0).numpy()
    assert np.abs(expected.astype(int) - apply_fit(image, fit)).max() <= 1


def test_padding_is_at_the_right_and_the_bottom():
    image = photo(21, 37)
    fit = plan_fit((37, 21), patch_size=16, tokens=6, policy="pad-to-patch")
    canvas = apply_fit(image, fit, background=(1, 2, 3))
    assert canvas.shape == (48, 32, 3)
    assert np.array_equal(canvas[:37, :21], np.asarray(image))
    assert (canvas[37:] == [1, 2, 3]).all()
    assert (canvas[:, 21:] == [1, 2, 3]).all()
    assert set(apply_fit(image, fit)[37:].ravel().tolist()) == {128}
