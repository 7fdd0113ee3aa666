"""Adds a text tower to a bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naflex_deploy.compiler.checkpoints.text_checkpoint import TOKENIZER, Text
from naflex_deploy.compiler.export import export_text
from naflex_deploy.core.errors import GateError
from naflex_deploy.core.manifest import TextTower
from naflex_deploy.runtime.text_encoder import open_tower

FOLDER = "text"
TOLERANCE = 1e-5
"""Largest allowed max |Δ| / max |reference| of the text vectors, as for any float32 output."""


def add_text(text: Text, bundle: Path) -> TextTower:
    """Export a text tower with its tokenizer, and compare it with the original.

    Args:
        text: The text tower.
        bundle: The bundle's directory, in which ``text/`` is created.

    Raises:
        CheckpointError: There is no tokenizer, or it belongs to another model.
        GateError: The exported tower differs from the original.
    """
    text.tokenize(["a photo of a page"])
    folder = bundle / FOLDER
    folder.mkdir()
    tower, path = text.model(), folder / "model.onnx"
    export_text(tower, path, masked=text.tokens.mask)
    shutil.copyfile(text.tokenizer_file, folder / TOKENIZER)
    a = text.architecture
    feeds: dict[str, np.ndarray[Any, Any]] = {"ids": np.random.default_rng(0).integers(0, a.vocabulary, (3, a.length))}
    if text.tokens.mask:
        feeds["mask"] = np.arange(a.length) < np.array([[1], [a.length // 2], [a.length]])
    with torch.inference_mode():
        reference = tower(*map(torch.from_numpy, feeds.values())).numpy()
    (found,) = open_tower(path).run(None, feeds)
    error = float(np.abs(found - reference).max() / np.abs(reference).max())
    if not error <= TOLERANCE:
        raise GateError(f"the exported text tower is off by {error:.1e} of the largest value, expected {TOLERANCE:g}")
    return TextTower(
        model=path.relative_to(bundle).as_posix(),
        tokenizer=f"{FOLDER}/{TOKENIZER}",
        files=sorted(file.relative_to(bundle).as_posix() for file in folder.iterdir()),
        tokens=text.tokens,
        scale=text.scale,
        bias=text.bias,
    )
