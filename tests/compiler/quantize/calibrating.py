"""Calibrations of the tiny checkpoint on pieces of a drawn page."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.quantize import observing
from naflex_deploy.compiler.quantize.calibration import Calibrated, calibrate
from naflex_deploy.core.config import Config, resolve
from naflex_deploy.demo.draw import draw_page
from tests.support.tiny import SETTINGS, tiny_checkpoint

FILES = 40


def config(samples: int = 24, *settings: str) -> Config:
    found = resolve("photo", settings=[*SETTINGS, *settings], environment={})
    section = found.profile.calibration.model_copy(update={"samples": samples})
    return dataclasses.replace(found, profile=found.profile.model_copy(update={"calibration": section}))


def run(images: Path, output: Path, settings: Config | None = None, **options: object) -> Calibrated:
    with patch.object(checkpoints, "read", lambda model, lora=None: tiny_checkpoint()):
        return calibrate(settings or config(), "tiny", images, output, **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def small_rounds(_exported_before: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "ROUND", 5)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pieces of a drawn page, of different sizes, some in a subdirectory. Not to be changed."""
    folder = tmp_path_factory.mktemp("drawn") / "images"
    (folder / "deeper").mkdir(parents=True)
    page = draw_page(5, "letter").image.resize((400, 400))
    rng = np.random.default_rng(0)
    for number in range(FILES):
        width, height = (int(side) for side in rng.integers(10, 140, 2))
        left, top = (int(rng.integers(0, 400 - side)) for side in (width, height))
        name = f"{'deeper/' if number % 5 == 0 else ''}{number:02}.png"
        page.crop((left, top, left + width, top + height)).save(folder / name)
    return folder


@pytest.fixture
def images(drawn: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(drawn, tmp_path / "images"))


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def rewritten(make: Callable[[int, Image.Image], Image.Image]) -> Callable[[Path], None]:
    def change(images: Path) -> None:
        for number, path in enumerate(sorted(images.rglob("*.png"))):
            with Image.open(path) as image:
                make(number, image).save(path)

    return change
