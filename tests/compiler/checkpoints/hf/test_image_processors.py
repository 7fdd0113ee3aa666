"""What the files of image processors of vision-language models say about sizes, and what is refused in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from naflex_deploy.compiler.checkpoints.hf.processor import read_processor
from naflex_deploy.core.errors import CheckpointError, ImageError
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.sizing import FillOwnCount, RoundUp, ShrinkAndPad, SmartResize
from naflex_deploy.runtime.images.fit import Fit, apply_fit
from naflex_deploy.runtime.packing.prepare import Preparer
from tests.compiler.checkpoints.hf.test_family_pixels import PROFILE, photo

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
QWEN = {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 16, "merge_size": 2, **HALF}
KIMI = {
    "auto_map": {"AutoProcessor": "a.KimiK25Processor", "AutoImageProcessor": "b.KimiK25VisionProcessor"},
    "media_proc_cfg": {
        "in_patch_limit": 4096,
        "patch_size": 14,
        "merge_kernel_size": 2,
        "patch_limit_on_one_side": 256,
        "fixed_output_tokens": None,
        "image_mean": [0.4] * 3,
        "image_std": [0.5] * 3,
    },
}
KIMI_VL = {
    "image_processor_type": "KimiVLImageProcessor",
    "in_token_limit": 2048,
    "patch_size": 14,
    "merge_kernel_size": [2, 2],
    "pad_input": True,
}
PHI = {"image_processor_type": "Siglip2ImageProcessorNoUpscale", "min_num_patches": 256, "max_num_patches": 3600}
ISAAC = {"model_type": "isaac", "vision_max_num_patches": 6144, "vision_min_num_patches": 256, "pixel_shuffle_scale": 2}


def read(
    directory: Path, settings: dict[str, Any] | None, config: dict[str, Any] | None = None, patch_size: int = 16
) -> tuple[Preprocessing, dict[str, str]]:
    if settings is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return read_processor(directory, config or {}, patch_size, 3, "model")


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({}, 3136, 1_003_520),
        ({"size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}}, 65_536, 16_777_216),
        ({"min_pixels": 4096, "max_pixels": 8192}, 4096, 8192),
        ({"size": {"shortest_edge": 1, "longest_edge": 2}, "min_pixels": None, "max_pixels": 8192}, 1, 8192),
    ],
)
def test_limits_of_qwen(settings: dict[str, Any], least: int, most: int, tmp_path: Path) -> None:
    found, origins = read(tmp_path, QWEN | settings, {"model_type": "qwen3_vl"})
    assert found.sizing == SmartResize(min_pixels=least, max_pixels=most)
    assert (found.merge, found.resample) == (2, "bicubic")
    said = ", ".join(name for name in ("size", "min_pixels", "max_pixels", "merge_size") if name in QWEN | settings)
    assert origins["sizing"] == f"preprocessor_config.json: {said}"


def test_published_code_of_kimi(tmp_path: Path) -> None:
    found, origins = read(tmp_path, KIMI, {"model_type": "kimi_k25"}, 14)
    assert found.sizing == ShrinkAndPad(max_patches=4096, max_side=256)
    assert (found.merge, found.padding, found.mean) == (2, (0, 0, 0), (0.4,) * 3)
    assert origins["mean"] == "preprocessor_config.json: media_proc_cfg: image_mean"
    found, _ = read(tmp_path, KIMI_VL, {"model_type": "kimi_vl"}, 14)
    assert found.sizing == ShrinkAndPad(max_patches=2048, max_side=510)
    assert (found.merge, found.padding, round(found.mean[0], 3)) == (2, (0, 0, 0), 0.481)


def test_phi4_and_isaac(tmp_path: Path) -> None:
    found, origins = read(tmp_path, PHI, {"model_type": "phi4-siglip", "vision_config": {"num_channels": 3}})
    assert origins["patch_size"] == "default of models of type phi4-siglip"
    assert origins["channels"] == "config.json: num_channels"
    assert found.sizing == FillOwnCount(min_patches=256, max_patches=3600)
    assert (found.merge, found.resample, found.mean) == (1, "bilinear", (0.5,) * 3)
    (tmp_path / "preprocessor_config.json").unlink()
    found, origins = read(tmp_path, None, ISAAC)
    assert found.sizing == RoundUp(min_patches=256, max_patches=6144)
    assert (found.merge, found.antialias) == (2, False)
    of_the_model = "config.json: vision_min_num_patches, vision_max_num_patches, pixel_shuffle_scale"
    assert origins["sizing"] == of_the_model
    found, origins = read(tmp_path, {"max_num_patches": 300, "pixel_shuffle_scale": 1}, ISAAC)
    both = "preprocessor_config.json: max_num_patches, pixel_shuffle_scale; config.json: vision_min_num_patches"
    assert origins["sizing"] == both
    assert found.sizing == RoundUp(min_patches=256, max_patches=300)
    assert found.merge == 1


@pytest.mark.parametrize(
    ("settings", "config", "match"),
    [
        ({"image_processor_type": "PixtralImageProcessor"}, {}, "image_processor_type = 'PixtralImageProcessor' is"),
        ({"auto_map": {"AutoImageProcessor": "a.OvisProcessor"}}, {}, "image_processor_type = 'OvisProcessor' is not"),
        (None, {"model_type": "qwen3_vl"}, "expected preprocessor_config.json or processor_config.json of a Qwen2VL"),
        (QWEN | {"size": {"height": 3, "width": 4}}, {}, "size = .* is not supported .expected shortest_edge and lon"),
        (QWEN | {"size": {"shortest_edge": 0, "longest_edge": 4}}, {}, "size: shortest_edge = 0 is not supported"),
        (QWEN | {"merge_size": "2"}, {}, "merge_size = '2' is not supported"),
        (QWEN | {"patch_size": 14}, {}, "has patch_size 14, config.json 16"),
        ({"image_processor_type": "Qwen2VLImageProcessor"} | HALF, {}, "has patch_size 14, config.json 16"),
        (QWEN, {"vision_config": {"spatial_merge_size": 3}}, "merges 2x2 patches, config.json 3x3"),
        (KIMI_VL | {"patch_size": 16, "pad_input": False}, {}, "pad_input = False is not supported"),
        (KIMI_VL | {"patch_size": 16, "merge_kernel_size": [2, 1]}, {}, r"merge_kernel_size = \[2, 1\] is not supp"),
        (
            {**KIMI, "media_proc_cfg": {"patch_size": 16, "fixed_output_tokens": 64}},
            {},
            "fixed_output_tokens = 64 is not supported",
        ),
        ({**KIMI, "media_proc_cfg": [1]}, {}, "media_proc_cfg: expected an object"),
        ({"image_processor_type": "Lfm2VlImageProcessor", "use_thumbnail": False}, {}, "use_thumbnail = False"),
        ({"image_processor_type": "Lfm2VlImageProcessor", "tile_size": 500}, {}, "expected a multiple of 32"),
        ({"image_processor_type": "Lfm2VlImageProcessor", "min_tiles": 20}, {}, "expected at most max_tiles = 10"),
        ({"image_processor_type": "Lfm2VlImageProcessor", "encoder_patch_size": 14}, {}, "has encoder_patch_size 14"),
        ({"image_processor_type": "Kimi_K25ImageProcessor", "patch_size": 16, "size": 3}, {}, "size = 3 is not supp"),
    ],
)
def test_what_is_refused(settings: dict[str, Any] | None, config: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read(tmp_path, settings, config)
    assert caught.value.code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("width", "height", "size"), [(640, 480, (384, 512)), (300, 200, (480, 640)), (37, 21, (32, 64))]
)
def test_isaac_does_not_antialias(width: int, height: int, size: tuple[int, int]) -> None:
    image = photo(width, height)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
    found = apply_fit(image, Fit(size, size, 1), antialias=False)
    assert np.abs(found.astype(int) - expected[0].permute(1, 2, 0).numpy()).max() <= 1
    antialiased = apply_fit(image, Fit(size, size, 1)).astype(int)
    assert width < size[1] or np.abs(found.astype(int) - antialiased).max() > 5


def test_grids_that_do_not_divide_are_refused() -> None:
    prepare = Preparer(Preprocessing(patch_size=8, merge=2), PROFILE, "openvino")
    ((refused,),) = prepare(0, Patches(np.zeros((6, 192), np.uint8), (2, 3)))
    assert isinstance(refused.result.error, ImageError)
    assert "expected a grid of multiples of 2, which the language model takes as one" in str(refused.result.error)
    ((taken,),) = prepare(0, Patches(np.zeros((8, 192), np.uint8), (2, 4)))
    assert taken.result.error is None
