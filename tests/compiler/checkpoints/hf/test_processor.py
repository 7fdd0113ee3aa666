"""Preprocessing as transformers' own image processor does it, whichever file its settings lie in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, Siglip2ImageProcessor, Siglip2VisionModel

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import CheckpointError, ImageError
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.runtime.images.fit import apply_fit, plan_fit
from naflex_deploy.runtime.packing.prepare import Preparer
from tests.support.packs import run
from tests.support.siglip2 import small

OWN, NESTED = "preprocessor_config.json", "processor_config.json"
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OPTIONS: list[dict[str, Any]] = [
    {},
    IMAGENET,
    {"resample": 3},
    {"do_normalize": False},
    {"do_rescale": False},
    {"do_rescale": False, "do_normalize": False},
    {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
    {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    {"rescale_factor": 1 / 256} | IMAGENET,
    {"image_mean": 0.4, "image_std": 0.3},
    {"do_convert_rgb": True},
    {"do_convert_rgb": False},
    {"do_convert_rgb": None},
    {"max_num_patches": 1024, "image_processor_type": "Siglip2ImageProcessorFast"},
    {"do_center_crop": True, "crop_size": {"height": 8, "width": 8}, "do_pad": False},
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    small(Siglip2VisionModel, num_hidden_layers=1).save_pretrained(tmp_path)
    return tmp_path


def test_grey_models(directory: Path) -> None:
    """One channel, from images that transformers' processor leaves grey."""
    model = small(Siglip2VisionModel, num_hidden_layers=1, num_channels=1)
    model.save_pretrained(directory)
    grey = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "image_mean": [0.4], "image_std": [0.3]}
    write(directory, OWN, grey)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 50), np.uint8))
    inputs = AutoImageProcessor.from_pretrained(directory, backend="pil")(
        images=[image], max_num_patches=48, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = model(**inputs).pooler_output.numpy()
    checkpoint = read(directory)
    settings = tuple(f"image.{value}" for value in ("tokens=48", "fit=fill"))
    prepare = Preparer(checkpoint.preprocessing, resolve("photo", settings=settings).profile, "onnxruntime")
    colours = Image.fromarray(np.random.default_rng(1).integers(0, 256, (31, 50, 3), np.uint8))
    for source, grey_image in ((image, image), (colours, colours.convert("L"))):
        ((prepared,),) = prepare(0, source)
        ((same,),) = prepare(0, grey_image)
        assert prepared.patches is not None
        assert same.patches is not None
        np.testing.assert_array_equal(prepared.patches.pixels, same.patches.pixels)
    ((prepared,),) = prepare(0, image)
    found = run(checkpoint.model(), [prepared.patches]).pooled.numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    write(directory, OWN, grey | {"do_convert_rgb": True})
    with pytest.raises(CheckpointError, match=r"do_convert_rgb = True is not supported .expected false, as"):
        read(directory)


def test_cut_patches_of_a_grey_model_are_grey() -> None:
    prepare = Preparer(Preprocessing(patch_size=8, channels=1), resolve("photo").profile, "onnxruntime")
    colours = np.random.default_rng(1).integers(0, 256, (1, 192), np.uint8)
    ((refused,),) = prepare(0, Patches(colours, (1, 1)))
    assert isinstance(refused.result.error, ImageError)
    assert "expected grey pixels" in str(refused.result.error)
    ((taken,),) = prepare(0, Patches(np.repeat(colours[:, :64], 3, axis=1), (1, 1)))
    assert taken.result.error is None


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels: int, directory: Path) -> None:
    small(Siglip2VisionModel, num_hidden_layers=1, num_channels=channels).save_pretrained(directory)
    with pytest.raises(CheckpointError, match=f"num_channels = {channels} is not supported"):
        read(directory)


def write(directory: Path, file: str, settings: object) -> None:
    content = {"processor_class": "Siglip2Processor", "image_processor": settings} if file == NESTED else settings
    (directory / file).write_text(json.dumps(content))


def ours(checkpoint: Checkpoint, image: Image.Image, tokens: int) -> np.ndarray:
    """[h·w, P·P·3] as our model sees an image."""
    p = checkpoint.preprocessing
    fit = plan_fit((image.height, image.width), patch_size=p.patch_size, tokens=tokens, search=p.search)
    pixels = apply_fit(image, fit, resample=p.resample).astype(np.float64) / 255
    h, w = fit.grid_hw
    normal = (pixels - p.mean) / p.std
    return normal.reshape(h, p.patch_size, w, p.patch_size, 3).transpose(0, 2, 1, 3, 4).reshape(h * w, -1)


@pytest.mark.parametrize("file", [OWN, NESTED])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "default")
def test_pixels_are_those_of_transformers(options: dict[str, Any], file: str, directory: Path) -> None:
    write(directory, file, {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8} | options)
    processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    pixels = np.random.default_rng(0).integers(0, 256, (31, 50, 3), np.uint8)
    image = Image.fromarray(pixels)
    theirs = processor(images=[image], max_num_patches=48, return_tensors="np")
    h, w = theirs["spatial_shapes"][0]
    expected = theirs["pixel_values"][0][: h * w]
    found = ours(read(directory), image, 48)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_the_processor_as_transformers_saves_it(directory: Path) -> None:
    """Whichever file that version writes."""
    Siglip2ImageProcessor(patch_size=8, resample=3, **IMAGENET).save_pretrained(directory)
    checkpoint = read(directory)
    assert checkpoint.preprocessing.mean == (0.485, 0.456, 0.406)
    assert checkpoint.preprocessing.resample == "bicubic"


def test_settings_inside_the_processor_come_first(directory: Path) -> None:
    kind = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8}
    write(directory, OWN, {"image_mean": [0.1] * 3} | kind)
    write(directory, NESTED, {"image_mean": [0.2] * 3} | kind)
    checkpoint = read(directory)
    assert checkpoint.preprocessing.mean == (0.2, 0.2, 0.2)
    assert checkpoint.preprocessing.mean == tuple(AutoImageProcessor.from_pretrained(directory).image_mean)
    assert checkpoint.origins["mean"] == "processor_config.json: image_processor: image_mean"
    assert checkpoint.origins["std"] == "default of Siglip2ImageProcessor"
    (directory / NESTED).write_text('{"processor_class": "Siglip2Processor"}')
    assert read(directory).preprocessing.mean == (0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"do_resize": False}, "do_resize = False is not supported"),
        ({"resample": 1}, "resample = 1 is not supported"),
        ({"resample": "bicubic"}, "resample = 'bicubic' is not supported .expected 2 .bilinear. or 3"),
        ({"resample": None}, "resample = None is not supported"),
        ({"do_rescale": None}, "do_rescale = None is not supported"),
        ({"image_mean": None}, "image_mean = None is not supported"),
        ({"resample": True}, "resample = True is not supported"),
        ({"resample": [2]}, r"resample = \[2\] is not supported"),
        ({"image_mean": "0.5"}, "image_mean = '0.5' is not supported"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean = \[0.5, 0.5\] is not supported"),
        ({"image_mean": [0.5, None, 0.5]}, "image_mean = "),
        ({"image_std": [0.5, 0.5, 0]}, r"image_std = \[0.5, 0.5, 0\] is not supported .expected positive"),
        ({"image_std": float("nan")}, "image_std = nan is not supported"),
        ({"rescale_factor": 0}, "rescale_factor = 0 is not supported"),
        ({"rescale_factor": "1/255"}, "rescale_factor = '1/255' is not supported"),
        ({"do_normalize": "yes"}, "do_normalize = 'yes' is not supported"),
        ({"do_convert_rgb": 1}, "do_convert_rgb = 1 is not supported"),
        ({"patch_size": 14}, "has patch_size 14, config.json 8"),
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type = 'CLIPImageProcessor' is not supp"),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, "image_processor_type = 'ViTFeatureExtractor'"),
        (["image_mean"], "expected an object, found list"),
    ],
)
@pytest.mark.parametrize("file", [OWN, NESTED])
def test_what_has_no_counterpart_is_refused(settings: object, match: str, file: str, directory: Path) -> None:
    write(directory, file, settings)
    with pytest.raises(CheckpointError, match=match) as caught:
        read(directory)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    assert caught.value.hint
