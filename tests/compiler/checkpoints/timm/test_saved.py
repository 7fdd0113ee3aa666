"""Directories as timm saves them: classic architectures made as NaFlexVit, grey models, heads, preprocessing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from torch import nn

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import CheckpointError
from naflex_deploy.runtime.packing.prepare import Preparer
from tests.support.naflexvit import golden
from tests.support.packs import assert_parity, random_images, run
from tests.support.weights import reseed

SMALL = {"embed_dim": 96, "depth": 2, "num_heads": 3}
CLASSIC: dict[str, tuple[str, dict[str, Any]]] = {
    "classic, 7 classes": ("vit_tiny_patch16_224", {"num_classes": 7}),
    "SigLIP": ("vit_base_patch16_siglip_224", {"num_classes": 0}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"num_classes": 0}),
    "EVA02": ("eva02_tiny_patch14_224", {"num_classes": 3}),
    "DINOv3": ("vit_small_plus_patch16_dinov3", {"num_classes": 0}),
}


def saved(directory: Path, name: str, **options: Any) -> tuple[Path, nn.Module]:
    """A model with seeded weights as ``save_for_hf`` writes it, and as timm reads it."""
    model = reseed(timm.create_model(name, **options))
    arguments = {key: value for key, value in options.items() if key != "num_classes"}
    save_for_hf(model, directory, model_args=arguments, safe_serialization=True)
    return directory, timm.create_model(f"local-dir:{directory}", pretrained=True).eval()


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_architectures_that_were_made_with_use_naflex(name: str, tmp_path: Path) -> None:
    architecture, options = CLASSIC[name]
    directory, original = saved(tmp_path, architecture, use_naflex=True, **SMALL, **options)
    checkpoint = read(directory)
    config = resolve_model_data_config(original)
    assert checkpoint.preprocessing.mean == pytest.approx(config["mean"])
    assert checkpoint.preprocessing.std == pytest.approx(config["std"])
    assert checkpoint.preprocessing.resample == config["interpolation"]
    side = checkpoint.architecture.patch_size
    images = random_images([(1, 5), (7, 1), (20, 3), (4, 6)], side)
    outputs = ("pooled", "tokens", *(("logits",) if options["num_classes"] else ()))
    assert_parity(run(checkpoint.model(outputs), images), golden(original, images))


def test_a_classic_architecture_itself_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **SMALL)
    save_for_hf(model, tmp_path, model_args=SMALL, safe_serialization=True)
    with pytest.raises(CheckpointError, match="'vit_tiny_patch16_224' is no NaFlexVit architecture"):
        read(tmp_path)
    edit(tmp_path, model_args=SMALL | {"use_naflex": True})
    with pytest.raises(CheckpointError, match=r"tensor 'embeds\.proj\.weight' is missing"):
        read(tmp_path)
    edit(tmp_path, architecture="vit_of_next_year", model_args={"use_naflex": True})
    with pytest.raises(CheckpointError, match="cannot make 'vit_of_next_year' with"):
        read(tmp_path)


@pytest.mark.parametrize("error", [ImportError("No module named 'timm'"), RuntimeError("operator torchvision::nms")])
def test_a_classic_architecture_needs_timm(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _ = saved(tmp_path, "vit_tiny_patch16_224", use_naflex=True, num_classes=7, **SMALL)

    class Failing:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "timm":
                raise error

    for module in [module for module in sys.modules if module.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Failing(), *sys.meta_path])
    with pytest.raises(CheckpointError, match=f"needs timm, which does not import: {error}") as caught:
        read(directory)
    assert caught.value.hint == "pip install 'naflex-deploy[originals]'"


@pytest.mark.parametrize("channels_last", [True, False])
def test_grey_models(channels_last: bool, tmp_path: Path) -> None:
    options = {"patchify_channels_last": channels_last}
    directory, original = saved(tmp_path, "naflexvit_base_patch16_gap", num_classes=3, in_chans=1, **SMALL, **options)
    config = resolve_model_data_config(original)
    layout = {"naflex": True, "patch_size": 16, "max_seq_len": 40, "patchify": True} | options
    names = ("input_size", "mean", "std", "interpolation")
    transform = create_transform(**{name: config[name] for name in names}, **layout)
    colours = Image.fromarray(np.random.default_rng(1).integers(0, 256, (61, 100, 3), np.uint8))
    entry = transform(colours.convert("L"))
    with torch.inference_mode():
        expected = original({key: value[None] for key, value in entry.items()})
    checkpoint = read(directory)
    assert checkpoint.preprocessing.channels == 1
    prepare = Preparer(checkpoint.preprocessing, resolve("photo", settings=["image.tokens=40"]).profile, "onnxruntime")
    ((prepared,),) = prepare(0, colours)
    assert prepared.patches is not None
    found = run(checkpoint.model(("pooled", "tokens", "logits")), [prepared.patches]).logits
    assert found is not None
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_four_channels_are_refused(tmp_path: Path) -> None:
    directory, _ = saved(tmp_path, "naflexvit_base_patch16_gap", num_classes=3, in_chans=4, **SMALL)
    with pytest.raises(CheckpointError, match=r"in_chans = 4 is not supported .supported: 1, 3"):
        read(directory)


def test_one_class_is_scored_by_a_sigmoid(tmp_path: Path) -> None:
    assert read(saved(tmp_path, "naflexvit_base_patch16_gap", num_classes=1, **SMALL)[0]).scores == "sigmoid"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("plain"), "naflexvit_base_patch16_gap", num_classes=3, **SMALL)[0]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"label_names": ["a", "b"]}, "label_names has 2 names for num_classes = 3"),
        ({"label_names": "abc"}, "label_names: expected a list or an object, found 'abc'"),
        ({"num_classes": "3"}, "num_classes = '3' is not supported"),
        ({"model_args": [1]}, r"model_args: expected an object, found \[1\]"),
        ({"model_args": SMALL | {"depth": {"a": 1}}}, "depth: expected no object"),
        ({"pretrained_cfg": "x"}, "pretrained_cfg: expected an object, found 'x'"),
        ({"pretrained_cfg": {"mean": "x"}}, "mean = 'x' is not supported"),
        ({"pretrained_cfg": {"std": [1, 1]}}, r"std = \[1, 1\] is not supported"),
        ({"pretrained_cfg": {"interpolation": "lanczos"}}, "interpolation = 'lanczos' is not supported"),
        ({"pretrained_cfg": {"interpolation": 3}}, "interpolation = 3 is not supported"),
        ({"quantization_config": {"quant_method": "quanto"}}, "quant_method = 'quanto' is not supported"),
        ({"architecture": 3}, "'3' is no NaFlexVit architecture"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], match: str, plain: Path, tmp_path: Path) -> None:
    for path in plain.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    edit(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=match) as caught:
        read(tmp_path)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)


def test_gaps_in_label_names_are_numbers(plain: Path, tmp_path: Path) -> None:
    for path in plain.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    edit(tmp_path, label_names={"0": "a", "2": "c"})
    assert read(tmp_path).labels == ("a", "1", "c")


def test_what_the_file_leaves_out_is_as_timm_assumes(plain: Path, tmp_path: Path) -> None:
    for path in plain.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    edit(tmp_path, pretrained_cfg={"num_classes": 3})
    config = resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path}"))
    checkpoint = read(tmp_path)
    assert checkpoint.preprocessing.mean == pytest.approx(config["mean"])
    assert checkpoint.origins["mean"] == "default of timm"
