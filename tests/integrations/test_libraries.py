"""Other people's libraries run unchanged with the engine, each in an environment of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integrations.environments import python_with
from tests.integrations.libraries import LIBRARIES, Library, table
from tests.support.two_towers import bundle

__all__ = ["bundle"]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, (height, width) in enumerate(((24, 40), (40, 24), (8, 8), (32, 32))):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    first, second = (Image.open(folder / f"{number}.png") for number in (0, 1))
    first.save(folder / "pages.tiff", save_all=True, append_images=[second])
    return folder


@pytest.mark.integrations
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_a_library_runs_unchanged(library: Library, bundle: Path, images: Path, tmp_path: Path) -> None:
    name, *arguments = library.program or (library.name.replace("-", "_"),)
    program = ROOT / "tests" / "integrations" / "programs" / f"{name}.py"
    python = python_with(library.name, library.requirements)
    done = subprocess.run([python, program, *arguments, bundle, images], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_the_table() -> None:
    assert table() in (ROOT / "docs" / "integrations.md").read_text()
