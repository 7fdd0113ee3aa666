"""What a bundle of a vision-language model's tower returns: tokens as the language model takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import naflex_deploy as nd
from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.manifest import Manifest
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.bundle.verify import verify
from tests.support.packs import random_images
from tests.support.vlms import TEXT_WIDTH, VLMS, expected

GRIDS = ((4, 6), (2, 26), (30, 2), (8, 8), (2, 2))
OUTPUTS = ("vlm", "deepstack:0", "deepstack:1")


@pytest.fixture(scope="module")
def images() -> list[Patches]:
    return random_images(GRIDS, 16)


@pytest.fixture(scope="module")
def theirs(vlm_directory: Path, images: list[Patches]) -> dict[str, list[np.ndarray]]:
    """Every output of every image, by transformers."""
    vlm = VLMS["Qwen3VL"]
    found = expected(vlm, vlm.load(vlm_directory), images)
    rows = [h * w // 4 for h, w in GRIDS]
    return {name: [part.numpy() for part in found[name].split(rows)] for name in OUTPUTS}


@pytest.mark.parametrize("output", OUTPUTS)
def test_engines_give_what_the_language_model_takes(vlm_bundle, images, theirs, output: str) -> None:
    engine = nd.load(vlm_bundle)
    for found, (h, w), wanted in zip(engine.tokens(images, output), GRIDS, theirs[output], strict=True):
        assert found.shape == (h // 2, w // 2, TEXT_WIDTH)
        assert np.abs(found.reshape(-1, TEXT_WIDTH) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_results_say_how_many_placeholders_to_lay_out(vlm_bundle: Path, images: list[Patches]) -> None:
    engine = nd.load(vlm_bundle)
    for result in engine.stream(images, ("vlm", "tokens", "pooled")):
        h, w = GRIDS[result.input]
        assert (result.grid_hw, result.placeholders) == ((h, w), h * w // 4)
        assert result.outputs["vlm"].shape == (h // 2, w // 2, TEXT_WIDTH)
        assert result.outputs["tokens"].shape == (h, w, 96)


def test_a_pack_of_blocks_names_the_rows_of_each_image(vlm_bundle: Path, images: list[Patches]) -> None:
    engine = nd.load(vlm_bundle)
    alone = engine.tokens(images, "vlm")
    seen = set()
    for packed in engine.packed(images, "vlm"):
        for rows, result in zip(packed.rows, packed.results, strict=True):
            seen.add(result.input)
            wanted = alone[result.input].reshape(-1, TEXT_WIDTH)
            assert np.abs(packed.values[rows] - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert seen == set(range(len(GRIDS)))


def test_half_precisions_are_those_of_torch(vlm_bundle: Path, images: list[Patches]) -> None:
    engine = nd.load(vlm_bundle)
    for wide, half, brain in zip(
        *(engine.tokens(images, "vlm", dtype=dtype) for dtype in ("float32", "float16", "bfloat16")), strict=True
    ):
        assert np.array_equal(half, torch.from_numpy(wide).half().numpy())
        assert torch.equal(torch.from_numpy(brain).view(torch.bfloat16), torch.from_numpy(wide).bfloat16())


def test_a_grid_that_does_not_divide_is_refused_and_others_are_not(vlm_bundle: Path, images: list[Patches]) -> None:
    engine = nd.load(vlm_bundle)
    odd = Patches(np.zeros((12, 768), np.uint8), (4, 3))
    results = {result.input: result for result in engine.stream([images[0], odd], "vlm")}
    assert results[0].error is None
    assert isinstance(results[1].error, ImageError)
    assert "expected a grid of multiples of 2, which the language model takes as one, found 4x3" in str(
        results[1].error
    )


def test_the_manifest_names_the_family_and_its_projector(vlm_bundle: Path) -> None:
    manifest = Manifest.read(vlm_bundle)
    assert manifest.model.family == "Qwen3-VL"
    assert manifest.model.tower["merge"] == manifest.preprocessing.merge == 2
    assert {spec.name: spec.shape for spec in manifest.outputs}["deepstack:1"] == ["tokens/4", TEXT_WIDTH]


def test_golden_packs_hold_thin_grids_and_tails(vlm_bundle: Path) -> None:
    for variant in Manifest.read(vlm_bundle).variants:
        assert variant.gate.status == "passed"
        assert variant.gate.max_error is not None
    assert verify(vlm_bundle).passed
    with np.load(vlm_bundle / "golden.npz") as golden:
        grids = [tuple(row) for key in golden.files if key.endswith("/grid_hw") for row in golden[key].tolist()]
    assert {(2, 64), (64, 2)} <= set(grids)
    assert all(h % 2 == 0 and w % 2 == 0 for h, w in grids)


def test_rows_that_are_not_of_blocks_are_an_error() -> None:
    pack = Pack.of(random_images(((2, 4), (4, 2)), 4))
    assert [part.shape for part in pack.split(np.zeros((4, 3)))] == [(1, 2, 3), (2, 1, 3)]
    for rows in (3, 5, 8, 0):
        with pytest.raises(ValueError, match="rows are not of blocks"):
            pack.split(np.zeros((rows, 3)))
    with pytest.raises(ValueError, match="rows are not of blocks"):
        Pack.of(random_images(((1, 4), (4, 3)), 4)).split(np.zeros((4, 3)))
