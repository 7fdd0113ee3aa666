"""A small real checkpoint, and the bundle that the command line itself builds from it."""

from __future__ import annotations

import tests.support.imports  # noqa: F401  before transformers and timm

# isort: split
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from transformers import Siglip2Config, Siglip2ForImageClassification

from naflex_deploy.cli import main
from tests.support.manifests import edit
from tests.support.shared import once
from tests.support.vlms import vlm_directory

__all__ = ["vlm_directory"]

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    """Call the command line; a crash is raised, not swallowed."""

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """A directory as transformers writes it."""
    return once("checkpoint", _save)


def _save(path: Path) -> None:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 16,
        "vision_use_head": False,
    }
    config = Siglip2Config(vision_config=vision, num_labels=3, id2label={0: "cat", 1: "dog", 2: "[owl]"})
    model = Siglip2ForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(path)


@pytest.fixture(scope="session")
def bundle(run: Run, checkpoint: Path) -> Path:
    # In the order in which calibrate exports them, so that both share an export.
    options = ("--profile", "photo", "--backend", "onnxruntime", "--set", "outputs=['tokens', 'pooled']")

    def build(folder: Path) -> None:
        result = run("build", *options, "--model", checkpoint, "-o", folder / "photo")
        assert result.exit_code == 0, result.output

    return once("photo", build) / "photo"


@pytest.fixture
def pages_bundle(bundle: Path, tmp_path: Path) -> Path:
    """The same, but images above 64 tokens are tiled."""
    path = Path(shutil.copytree(bundle, tmp_path / "pages-bundle"))
    tiled = {"tokens": 64, "fit": "shrink-only", "oversize": "tiles", "overlap": 1}
    edit(path, lambda content: content["config"]["image"].update(tiled))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five sound images of different shapes in a directory, one of them two frames."""
    return drawn(tmp_path / "images")


def drawn(folder: Path) -> Path:
    """Those images in this folder, the same ones every time."""
    (folder / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)

    def image(height: int, width: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    image(40, 60).save(folder / "a.png")
    image(300, 20).save(folder / "b.jpg")
    image(16, 16).save(folder / "c.bmp")
    image(100, 130).save(folder / "deeper" / "d.webp")
    image(20, 30).save(folder / "e.tiff", save_all=True, append_images=[image(50, 20)])
    return folder
