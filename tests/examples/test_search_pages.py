"""The notebook runs from its first cell to its last, and finds what the engine itself finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naflex_deploy as nd
from tests.cli.conftest import images
from tests.support.two_towers import bundle

__all__ = ["bundle", "images"]

NOTEBOOK = Path(__file__).parents[2] / "examples" / "search_pages.ipynb"


def test_every_cell_runs(bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "demo").symlink_to(bundle)
    shutil.copytree(images, tmp_path / "naflex_deploy" / "demo" / "pages")
    shutil.rmtree(tmp_path / "naflex_deploy" / "demo" / "pages" / "deeper")
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")
    found: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, {cell['id']}", "exec"), found)
    assert found["summary"].written == 5
    engine = nd.load(bundle)
    rows = engine.embed(sorted(found["pages"].iterdir()), return_index=True)
    for column, text in enumerate(found["queries"]):
        scores = found["cosines"][:, column]
        np.testing.assert_allclose([hit.cosine for hit in found["hits"][text]], np.sort(scores)[::-1][:3], atol=1e-6)
    assert len(rows) == len(found["cosines"])
    assert found["sheet"].getextrema() != ((255, 255),) * 3
