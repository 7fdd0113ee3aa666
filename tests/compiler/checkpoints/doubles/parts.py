"""What the towers share: two records, attention within an image, random weights, and the writing of a directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Image:
    """One image: `patches` [h * w, P, P, 3], normalized pixels (row, column, channel), row by row of `grid` (h, w)."""

    patches: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class Outputs:
    """What a model makes of one image: `tokens` [h * w, D], row by row, and what its language model reads, [N, T]."""

    tokens: Tensor
    projected: Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return one image's attention [tokens, heads * size]; `query`, `key` and `value` are [tokens, heads, size].

    Every token sees every token of its image; the logits are scaled by size ** -0.5.
    """
    logits = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
    return torch.einsum("hqk,khd->qhd", logits.softmax(-1), value).flatten(1)


def merge(tokens: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Return [h * w / side**2, side**2, D]: the tokens of each square, row by row, squares row by row too."""
    (height, width), depth = grid, tokens.shape[-1]
    squares = tokens.reshape(height // side, side, width // side, side, depth).transpose(1, 2)
    return squares.reshape(-1, side * side, depth)


def randomize(model: nn.Module, seed: int, queries: tuple[str, ...]) -> None:
    """Give every parameter a random value that no other value could stand in for.

    Matrices keep the size of what they multiply, except those whose names contain one of `queries`: they make queries
    and keys 1.7 times as large, so that the logits of the attention have a standard deviation above 2. Norms' weights
    and biases, which a fresh model leaves at one and zero, are spread as well. Embedded patches and positions are
    small, so that the eps of the first norm counts.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            if "norm" in name and name.endswith("weight"):
                value = 1 + 0.3 * value
            elif name.endswith("bias"):
                value = 0.3 * value
            elif "pos" not in name:
                value *= (1.7 if any(query in name for query in queries) else 1.0) * value[0].numel() ** -0.5
            if any(part in name for part in ("patch_embed", "position_embedding")):
                value *= 0.1
            parameter.copy_(value)


def write(
    directory: Path,
    model: nn.Module,
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any] | None,
    language: Mapping[str, tuple[int, ...]],
) -> None:
    """Write a checkpoint: `model`'s state as it is named, and zeros of the shapes in `language` beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    if preprocessor is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    state = {name: value.detach().float().contiguous() for name, value in model.state_dict().items()}
    state |= {name: torch.zeros(shape) for name, shape in language.items()}
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
