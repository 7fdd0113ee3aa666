"""Small exported models, and packs with the reference model's outputs, for tests of lowering and sessions."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.model.architecture import Architecture, Positions, Rope
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.core.pack import Pack, Patches

OUTPUTS = ("tokens", "pooled", "logits")

ARCHITECTURES = {
    "siglip2": Architecture(64, 2, 4, 128, 4, Positions((4, 4)), classes=5),
    "dinov3": Architecture(
        64, 2, 2, 96, 4, None, classes=3, pooling="class", class_token=True, registers=2, rope=Rope("dinov3", 100.0)
    ),
}

_FOLDER = tempfile.TemporaryDirectory(prefix="naflex-deploy-tests-")


@dataclass(frozen=True)
class Model:
    """A checkpoint and its portable graph."""

    checkpoint: Checkpoint
    portable: Path

    @property
    def prefix(self) -> int:
        return self.checkpoint.architecture.prefix

    def pack(self, *grids: tuple[int, int], tail: int = 0, seed: int = 0) -> Pack:
        """Images of random pixels."""
        rng = np.random.default_rng(seed)
        values = self.checkpoint.architecture.patch_values
        images = [Patches(rng.integers(0, 256, (h * w, values), np.uint8), (h, w)) for h, w in grids]
        tokens = sum(len(image) + self.prefix for image in images)
        return Pack.of(images, prefix=self.prefix, tokens=tokens + tail)

    def reference(self, pack: Pack) -> dict[str, npt.NDArray[np.float32]]:
        """What the eager model returns, tail left out."""
        model = self.checkpoint.model(OUTPUTS, ragged_attention)
        with torch.inference_mode():
            found = model(*(torch.from_numpy(pack.view(role)) for role in model.roles))
        rows = {"tokens": pack.useful_tokens}
        return {name: values[: rows.get(name, pack.images)].numpy() for name, values in found.items()}


@cache
def exported(name: str) -> Model:
    """One of `ARCHITECTURES`, exported once a run of the tests."""
    checkpoint = random_checkpoint(ARCHITECTURES[name])
    path = Path(_FOLDER.name) / f"{name}.onnx"
    export(checkpoint.model(OUTPUTS), path)
    return Model(checkpoint, path)
