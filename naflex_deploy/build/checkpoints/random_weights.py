"""Seeded random weights of the true shape, for benchmarks and for tests of everything but accuracy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from naflex_deploy.build.architecture import Architecture, Positions
from naflex_deploy.build.checkpoints.checkpoint import Checkpoint
from naflex_deploy.build.model import PackedNaFlexViT
from naflex_deploy.core.errors import CheckpointError, nearest
from naflex_deploy.core.preprocessing import Preprocessing

SHAPES = {
    "siglip2-base": Architecture(768, 12, 12, 3072, 16, Positions((16, 16))),
    "siglip2-so400m": Architecture(1152, 27, 16, 4304, 16, Positions((16, 16))),
}


def read_random(name: str) -> Checkpoint:
    """Seeded weights for one of `SHAPES`."""
    if name not in SHAPES:
        raise CheckpointError(f"no random weights named '{name}'", hint=nearest(name, SHAPES))
    return random_checkpoint(SHAPES[name], source=f"random:{name}")


def random_checkpoint(architecture: Architecture, *, source: str = "random", seed: int = 0) -> Checkpoint:
    """Weights under which attention is not uniform: its logits have a standard deviation of about 2.

    With normed inputs of unit variance and query and key weights of variance v, a score has a standard
    deviation of about D·v, so v = 2/D; every other matrix keeps the variance of its input.
    """
    with torch.device("meta"):
        shapes = {
            name: tensor.shape for name, tensor in PackedNaFlexViT(architecture, ("tokens",)).state_dict().items()
        }
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: torch.Size) -> Tensor:
        values = torch.randn(shape, generator=generator)
        layer, _, kind = name.rpartition(".")
        if kind == "bias":
            return values * 0.02
        if "norm" in layer:
            return 1 + 0.1 * values
        if name.endswith(("table", "probe", "frequencies")):
            return values * 0.5
        variance = (2.0 if layer.endswith(("query", "key")) else 1.0) / shape[-1]
        return values * math.sqrt(variance)

    weights = {name: draw(name, shape) for name, shape in shapes.items()}
    return Checkpoint(source, architecture, weights, Preprocessing(patch_size=architecture.patch_size))
