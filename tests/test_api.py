"""The public API: two functions, typed, lazy, and usable in any order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Siglip2VisionConfig, Siglip2VisionModel

import naflex_deploy as nd
from naflex_deploy.core.errors import UsageError


def test_a_module_in_memory_becomes_an_engine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Siglip2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=8
    )
    model = Siglip2VisionModel(config).eval()
    settings = ["image.fit=pad-to-patch", "engine.backends=['onnxruntime']"]
    manifest = nd.build("photo", model, tmp_path / "bundle", settings=settings)
    assert manifest.variants[0].gate.status == "passed"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    patches = torch.from_numpy(pixels.reshape(3, 8, 5, 8, 3).transpose(0, 2, 1, 3, 4).reshape(15, 192).copy())
    with torch.no_grad():
        expected = model(
            pixel_values=patches.float()[None] / 127.5 - 1,
            pixel_attention_mask=torch.ones(1, 15, dtype=torch.int64),
            spatial_shapes=torch.tensor([[3, 5]]),
        ).pooler_output.numpy()
    found = nd.load(tmp_path / "bundle").embed([pixels])
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_errors_are_caught_by_names_of_the_package(tmp_path: Path) -> None:
    with pytest.raises(nd.NaflexError, match="expected a directory, found a file"):
        nd.load(Path(__file__))
    assert issubclass(nd.ImageError, nd.NaflexError)


def test_a_setting_alone_is_a_setting(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"image\.tokens: expected greater than 0"):
        nd.build("photo", "demo", tmp_path / "x", settings="image.tokens=0")


def test_build_can_be_called_before_and_after_the_compiler_is_imported(tmp_path: Path) -> None:
    code = (
        "import naflex_deploy as nd\n"
        "from naflex_deploy.core.errors import UsageError\n"
        "for _ in range(2):\n"
        "    try: nd.build('no-such-profile', 'demo', 'x')\n"
        "    except UsageError: pass\n"
        "    import naflex_deploy.compiler.pipeline\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with pytest.raises(UsageError, match="no profile named"):
        nd.build("no-such-profile", "demo", tmp_path / "x")
