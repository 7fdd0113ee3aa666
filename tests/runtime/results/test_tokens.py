"""Tokens in the form that decoders take, against the decoders' own code and through a real engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.lfm2_vl.modeling_lfm2_vl import Lfm2VlMultiModalProjector

import naflex_deploy as nd
from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.backends.session import Outputs
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.results.tokens import merge_blocks, narrowed
from tests.support.manifests import a_manifest, a_variant
from tests.support.tiny import WIDTH

SIDES = st.integers(1, 6)


class Projector:
    """What `pixel_unshuffle` needs of its class."""

    factor = 2


@given(SIDES, SIDES, st.integers(1, 5))
def test_merging_is_the_pixel_unshuffle_of_lfm2_vl(h: int, w: int, depth: int) -> None:
    grid = np.random.default_rng(0).standard_normal((2 * h, 2 * w, depth)).astype(np.float32)
    theirs = Lfm2VlMultiModalProjector.pixel_unshuffle(Projector(), torch.from_numpy(grid)[None])[0].numpy()
    np.testing.assert_array_equal(merge_blocks(grid, 2), theirs)


@given(SIDES, SIDES, st.integers(1, 4))
def test_a_block_holds_its_tokens_row_by_row(h: int, w: int, side: int) -> None:
    """As Qwen2-VL's merger, whose tokens come in blocks, takes them one after another."""
    grid = np.arange(h * side * w * side * 2).reshape(h * side, w * side, 2).astype(np.float32)
    found = merge_blocks(grid, side)
    for y in range(h):
        for x in range(w):
            block = grid[y * side : (y + 1) * side, x * side : (x + 1) * side]
            assert found[y, x].tolist() == [value for row in block for token in row for value in token]


@pytest.mark.parametrize(("shape", "side"), [((3, 4, 8), 2), ((4, 3, 8), 2), ((4, 4, 8), 3), ((4, 4, 8), 0)])
def test_grids_that_do_not_divide(shape: tuple[int, int, int], side: int) -> None:
    with pytest.raises(UsageError, match="does not divide") as caught:
        merge_blocks(np.zeros(shape, np.float32), side)
    assert "image.multiple" in caught.value.hint


def test_half_precision_or_a_reason() -> None:
    values = np.array([[1.0, -65504.0, 1e-9]], np.float32)
    found = narrowed(values, np.dtype(np.float16))
    assert found.dtype == np.float16
    assert found.tolist() == [[1.0, -65504.0, 0.0]]
    assert narrowed(values, np.dtype(np.float32)) is values
    with pytest.raises(UsageError, match="a token holds 70000, beyond float16"):
        narrowed(np.array([7e4], np.float32), np.dtype(np.float16))
    for dtype in (np.float64, np.int8, np.uint8):
        with pytest.raises(UsageError, match="expected float32, float16 or bfloat16"):
            narrowed(values, np.dtype(dtype))


def images() -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    return [generator.integers(0, 256, (8 * h, 8 * w, 3), np.uint8) for h, w in ((4, 6), (2, 2), (6, 8))]


def patches(image: np.ndarray) -> Patches:
    h, w = image.shape[0] // 8, image.shape[1] // 8
    return Patches(image.reshape(h, 8, w, 8, 3).transpose(0, 2, 1, 3, 4).reshape(h * w, 192), (h, w))


def test_an_engine_gives_them_in_any_form(bundle: Path) -> None:
    engine = nd.load(bundle)
    plain = engine.tokens(images())
    for found, expected in zip(engine.tokens(images(), merge=2, dtype=np.float16), plain, strict=True):
        assert (found.dtype, expected.dtype) == (np.float16, np.float32)
        np.testing.assert_array_equal(found, merge_blocks(expected, 2).astype(np.float16))
    with pytest.raises(UsageError, match="a grid of 3x2 does not divide into blocks of 2x2"):
        engine.tokens([np.zeros((24, 16, 3), np.uint8)], merge=2)


def test_patches_are_taken_as_they_are(bundle: Path) -> None:
    engine = nd.load(bundle)
    cut = [patches(image) for image in images()]
    for found, expected in zip(engine.tokens(cut), engine.tokens(images()), strict=True):
        np.testing.assert_array_equal(found, expected)
    (result,) = engine.stream(cut[:1], ("pooled",))
    assert (result.name, result.size, result.grid_hw) == ("<4x6 patches>", (48, 32), (4, 6))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Patches(np.zeros((4, 48), np.uint8), (2, 2)), "expected 192 values of uint8 each, found 48 of uint8"),
        (Patches(np.zeros((4, 192), np.float32), (2, 2)), "expected 192 values of uint8 each, found 192 of float32"),
        (Patches(np.zeros((300, 192), np.uint8), (15, 20)), "expected at most 200 patches"),
    ],
)
def test_patches_of_another_model_harm_no_other(bundle: Path, given: Patches, said: str) -> None:
    engine = nd.load(bundle)
    good, bad = sorted(engine.stream([patches(images()[0]), given]), key=lambda result: result.input)
    assert good.error is None
    assert isinstance(bad.error, ImageError)
    assert said in bad.error.message
    with pytest.raises(ImageError, match=said):
        list(engine.packed([given]))


@pytest.mark.parametrize("output", ["tokens", "pooled"])
def test_packs_stay_where_the_engine_left_them(bundle: Path, output: str) -> None:
    engine = nd.load(bundle)
    sources = images() * 12  # several packs
    expected = engine.tokens(sources) if output == "tokens" else list(engine.embed(sources))
    seen = []
    for number, found in enumerate(engine.packed(sources, output)):
        values = torch.from_dlpack(found.values)
        for rows, result in zip(found.rows, found.results, strict=True):
            (h, w), own = result.grid_hw, values[rows]
            shaped = own.view(h, w, WIDTH) if output == "tokens" else own[0]
            np.testing.assert_allclose(shaped.numpy(), expected[result.input], atol=1e-5)
            assert result.pack == number
            seen.append(result.input)
    assert sorted(seen) == list(range(len(sources)))
    assert number > 1


class OnDevice:
    """A session whose outputs can stay on a device; running it otherwise is an error."""

    def run(self, pack: Pack, outputs: list[str]) -> Outputs:
        raise AssertionError("copied to the host")

    def run_on_device(self, pack: Pack, outputs: list[str]) -> Outputs:
        values = np.zeros((pack.tokens, 3), np.float32)
        values[:, 0] = pack.segment_ids
        values[:, 1:] = pack.coords
        return dict.fromkeys(outputs, values)


def test_a_session_with_a_device_keeps_them_there_and_prefix_tokens_are_left_out() -> None:
    manifest = a_manifest()
    manifest = manifest.model_copy(update={"model": manifest.model.model_copy(update={"prefix": 2})})
    engine = Engine(OnDevice(), manifest, a_variant())
    cut = [Patches(np.zeros((h * w, 48), np.uint8), (h, w)) for h, w in ((3, 2), (1, 4))]
    (found,) = engine.packed(cut)
    for place, (rows, result) in enumerate(zip(found.rows, found.results, strict=True)):
        grid = found.values[rows].reshape(*result.grid_hw, 3)
        assert (grid[..., 0] == place).all()
        assert grid[-1, -1, 1:].tolist() == [side - 1 for side in result.grid_hw]
