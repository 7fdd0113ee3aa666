"""Another patch size for a trained projection, as FlexiViT resizes it.

Let R be the matrix that resizes a patch of P² pixels to Q² (antialiased). A patch x and its resized form R·x should
give the same token: find V with V·R·x = W·x for all x, best in the least squares sense, V = W·R⁺. It is computed
once, when a checkpoint is read. (Beyer et al., FlexiViT, arXiv:2212.08013, section 3.4.)
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.model.positions.interpolation import filter_weights
from naflex_deploy.core.errors import UsageError

LARGEST_PATCH = 64


def with_patch_size(checkpoint: Checkpoint, size: int) -> Checkpoint:
    """The same model for patches of ``size`` pixels a side.

    Raises:
        UsageError: The size is out of range.
    """
    a = checkpoint.architecture
    if not 1 <= size <= LARGEST_PATCH:
        raise UsageError(f"patch size: expected 1 to {LARGEST_PATCH}, found {size}")
    if size == a.patch_size:
        return checkpoint
    interpolation = "bilinear" if a.positions is not None and a.positions.interpolation == "bilinear" else "bicubic"
    weight = checkpoint.weights["embed.weight"]
    pixels = weight.double().view(len(weight), a.patch_size**2, a.channels)
    inverse = torch.linalg.pinv(resize_matrix(a.patch_size, size, interpolation))
    resized = torch.einsum("dpc,pq->dqc", pixels, inverse).flatten(1).float()
    return dataclasses.replace(
        checkpoint,
        source=f"{checkpoint.source} with {size}x{size} patches",
        architecture=dataclasses.replace(a, patch_size=size),
        weights=checkpoint.weights | {"embed.weight": resized},
        preprocessing=checkpoint.preprocessing.model_copy(update={"patch_size": size}),
        original=None,
    )


def resize_matrix(source: int, target: int, interpolation: str) -> Tensor:
    """[target², source²] float64: the antialiased resize of a square of pixels."""
    rows = filter_weights(torch.arange(target), torch.full((target,), target), source, interpolation).double()
    return torch.kron(rows, rows)
