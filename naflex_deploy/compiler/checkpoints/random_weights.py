"""Seeded random weights of the true shape, for benchmarks and for tests of everything but accuracy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.timm.architectures import ARCHITECTURES
from naflex_deploy.compiler.checkpoints.timm.config import TimmConfig
from naflex_deploy.compiler.model.architecture import Architecture, Positions, Projector, Rope
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.core.errors import NoCheckpointError, nearest
from naflex_deploy.core.preprocessing import Preprocessing

SHAPES = {
    "siglip2-base": Architecture(768, 12, 12, 3072, 16, Positions((16, 16))),
    "siglip2-so400m": Architecture(1152, 27, 16, 4304, 16, Positions((16, 16))),
    "qwen3-vl-4b": Architecture(
        *(1024, 24, 16, 4096, 16),
        Positions((48, 48), antialias=False, align_corners=True),
        pooling="mean",
        final_norm="none",
        rope=Rope("axial"),
        projector=Projector(2560, hidden=4096, merge=2, taps=(5, 11, 17)),
    ),
    "kimi-k2.5": Architecture(
        *(1152, 27, 16, 4304, 14),
        Positions((64, 64), "bicubic", antialias=False),
        norm_eps=1e-5,
        pooling="mean",
        rope=Rope("axial"),
        projector=Projector(7168, hidden=4608, merge=2, norm_eps=1e-5),
    ),
}
"""Towers of published models; those of vision-language models are stated as in their configs."""


def read_random(name: str) -> Checkpoint:
    """Seeded weights for one of `SHAPES` or for a name that timm registers."""
    architecture, preprocessing = shape_of(name)
    return random_checkpoint(architecture, source=f"random:{name}", preprocessing=preprocessing)


def shape_of(name: str) -> tuple[Architecture, Preprocessing]:
    """What ``random:NAME`` stands for, without its weights.

    Raises:
        CheckpointError: There is no such name.
    """
    if name in SHAPES:
        shape = SHAPES[name]
        return shape, Preprocessing(patch_size=shape.patch_size, merge=shape.merge)
    if name in ARCHITECTURES:
        registered = ARCHITECTURES[name]
        config = TimmConfig.of(registered.options, f"random:{name}")
        preprocessing = Preprocessing(
            patch_size=config.patch_size, mean=registered.mean, std=registered.std, resample="bicubic"
        )
        return config.architecture(registered.classes), preprocessing
    raise NoCheckpointError(f"no random weights named '{name}'", hint=nearest(name, [*SHAPES, *ARCHITECTURES]))


def random_checkpoint(
    architecture: Architecture, *, source: str = "random", seed: int = 0, preprocessing: Preprocessing | None = None
) -> Checkpoint:
    """Weights under which attention is not uniform: its logits have a standard deviation of about 2.

    With normed inputs of unit variance and query and key weights of variance v, a score has a standard
    deviation of about D·v, so v = 2/D; every other matrix keeps the variance of its input.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: torch.Size) -> Tensor:
        values = torch.randn(shape, generator=generator)
        layer, _, kind = name.rpartition(".")
        if kind == "bias":
            return values * 0.02
        if "norm" in layer:
            return 1 + 0.1 * values
        if kind in ("table", "probe", "frequencies"):
            return values * 0.5
        variance = (2.0 if layer.endswith(("query", "key")) else 1.0) / shape[-1]
        return values * math.sqrt(variance)

    weights = {name: draw(name, shape) for name, shape in weight_shapes(architecture).items()}
    chosen = preprocessing or Preprocessing(patch_size=architecture.patch_size)
    return Checkpoint(source, architecture, weights, chosen)


def weight_shapes(architecture: Architecture) -> dict[str, torch.Size]:
    """Name and shape of every weight that a model of this architecture has."""
    with torch.device("meta"):
        model = PackedNaFlexViT(architecture, ("tokens",))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
