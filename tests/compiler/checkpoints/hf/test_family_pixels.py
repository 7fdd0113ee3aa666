"""Pixels of vision-language models, from the files of their processors to patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naflex_deploy.compiler.checkpoints.hf.processor import read_processor
from naflex_deploy.core.config import resolve
from naflex_deploy.runtime.packing.prepare import Preparer
from tests.support.families import PIL, PROCESSORS, SIZES, cases, pixels, processor, raster
from tests.support.training_pixels import picture, summary

RECORDED = json.loads((Path(__file__).parent / "recorded" / "family_pixels.json").read_text())
PROFILE = resolve("photo", settings=("image.fit=model", "image.tokens=auto", "engine.openvino.budgets=[20000]")).profile
PATCH = {kind: 16 if kind in ("qwen3_vl", "cosmos3_edge", "lfm2_vl") else 14 for kind in PROCESSORS}


def preparer(kind: str, directory: Path) -> Preparer:
    (directory / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[kind]))
    preprocessing, _ = read_processor(directory, {"model_type": kind}, PATCH[kind], 3, kind)
    return Preparer(preprocessing, PROFILE, "openvino")


def ours(prepare: Preparer, image: Image.Image) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """The patches of an image, tiles before the whole."""
    ((whole, *tiles),) = prepare(0, image)
    return [(item.patches.pixels, item.patches.grid_hw) for item in (*tiles, whole)]


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours with a little noise."""
    y, x = np.mgrid[:height, :width] / 40
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2) * 100 + 128
    noise = np.random.default_rng(0).normal(0, 5, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", PIL)
def test_pixels_are_those_of_the_processor_whatever_pillow_is_installed(kind: str, tmp_path: Path) -> None:
    """Recorded under Pillow 12.3."""
    assert RECORDED["pillow"] == "12.3.0"
    prepare = preparer(kind, tmp_path)
    found = {}
    for name, _, size in cases([kind]):
        ((patches, grid),) = ours(prepare, picture(*size))
        found[name] = summary(patches, grid)
    assert len(found) == len(SIZES)
    assert found == {name: value for name, value in RECORDED["digests"].items() if name.startswith(f"{kind}:")}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_torchvisions_pixels_are_within_a_level_on_photos_and_two_on_noise(kind: str, tmp_path: Path) -> None:
    """The only ones of Kimi and LFM2-VL. Those with a class of Pillow's differ by two levels also on photos, rarely."""
    prepare = preparer(kind, tmp_path)
    alone = kind not in PIL
    for size in [(1251, 1000), (37, 21), (5, 1)] if kind == "lfm2_vl" else SIZES[3:8]:
        for image, levels in ((photo(*size), 1 if alone else 2), (picture(*size), 2)):
            found, expected = ours(prepare, image), pixels(kind, image, backend="torchvision")
            assert [grid for _, grid in found] == [grid for _, grid in expected]
            for (mine, _), (theirs, _) in zip(found, expected, strict=True):
                difference = np.abs(mine.astype(np.float32) - theirs)
                assert difference.max() <= levels
                assert (difference > 0).mean() <= 0.02
                assert (difference > 1).mean() <= 1e-4


@pytest.mark.parametrize("kind", PROCESSORS)
def test_what_the_model_sees(kind: str, tmp_path: Path) -> None:
    """Mean and deviation; on an image that keeps its size, so that nothing but them counts."""
    prepare = preparer(kind, tmp_path)
    model = prepare.model
    image = picture(448, 448)
    (expected, grid), *_ = raster(kind, processor(kind, backend="torchvision")(image, return_tensors="np"))
    (found, same), *_ = ours(prepare, image)
    assert same == grid
    values = (found.reshape(-1, 3) / 255 - model.mean) / model.std
    assert np.abs(values.reshape(found.shape) - expected).max() <= 1e-6 * np.abs(expected).max()
