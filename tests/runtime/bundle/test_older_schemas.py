"""Bundles that earlier versions wrote: each was built from a tiny random model by the code that wrote its schema.

Beside each lies what that version's engine gave for the images below.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import naflex_deploy as nd
from naflex_deploy.core.manifest import SCHEMA
from naflex_deploy.runtime.bundle.verify import verify

BUNDLES = Path(__file__).parents[2] / "fixtures" / "bundles"


@pytest.fixture(params=["schema-1", "schema-2"])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / request.param, tmp_path / request.param))


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((9, 30, 3), (40, 40, 3), (4, 5, 3))]


def test_it_embeds_as_it_did(older: Path) -> None:
    engine = nd.load(older)
    expected = np.load(BUNDLES / f"{older.name}.npz")
    tokens = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in engine.tokens(images())])
    scores = np.array([[prediction.score for prediction in row] for row in engine.classify(images())])
    for name, found in (("pooled", engine.embed(images())), ("tokens", tokens), ("scores", scores)):
        assert found.shape == expected[name].shape
        assert np.abs(found - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max()


def test_it_verifies(older: Path) -> None:
    assert json.loads((older / "manifest.json").read_text())["schema"] == int(older.name[-1]) < SCHEMA + 1
    assert verify(older).passed


def test_a_changed_file_of_it_is_noticed(older: Path) -> None:
    weights = older / "variants" / "onnxruntime-cpu-fp32" / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    with pytest.raises(nd.NaflexError, match=r"model\.onnx\.data"):
        nd.load(older)
