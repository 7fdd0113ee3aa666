"""Position layers with seeded weights, and formulas in numpy for those that no other implementation has."""

from __future__ import annotations

from math import erf

import numpy as np
import torch
from torch import Tensor, nn

from naflex_deploy.compiler.model.architecture import Positions
from naflex_deploy.compiler.model.packed_vit import position_table


def place_all(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Places of a whole grid's tokens, and their grid."""
    height, width = grid
    coords = torch.cartesian_prod(torch.arange(height), torch.arange(width)).int()
    return coords, torch.tensor([grid]).int().expand(len(coords), 2)


def filled(positions: Positions, width: int = 3) -> nn.Module:
    """The layer that resizes a table so, with seeded weights."""
    layer = position_table(positions, width)
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def learned_softmax(layer: nn.Module, grid: tuple[int, int]) -> np.ndarray:
    """`SoftmaxTable` token by token, float64."""
    positions = layer.positions
    rows, columns = positions.grid
    weights = {name: parameter.detach().double().numpy() for name, parameter in layer.named_parameters()}
    table = weights["table"].reshape(rows, columns, -1)
    results = []
    for token in np.ndindex(grid):
        place = []
        for index, size, source in zip(token, grid, (rows, columns), strict=True):
            if positions.align_corners:
                place.append(index * (source - 1) / max(size - 1, 1))
            else:
                place.append((index + 0.5) * source / size - 0.5)
        scores, values = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                i, j = int(np.floor(place[0])) + dy, int(np.floor(place[1])) + dx
                offset = np.array([place[0] - i, place[1] - j])
                hidden = _gelu(weights["hidden.weight"] @ offset + weights["hidden.bias"])
                scores.append((weights["score.weight"] @ hidden + weights["score.bias"]).item())
                values.append(table[np.clip(i, 0, rows - 1), np.clip(j, 0, columns - 1)])
        results.append(np.exp(scores) / np.exp(scores).sum() @ np.array(values))
    return np.array(results)


def coordinate_mlp(layer: nn.Module, grid: tuple[int, int]) -> np.ndarray:
    """`CoordinateMlp`, float64."""
    w1, b1, w2, b2 = (parameter.detach().double().numpy() for parameter in layer.parameters())
    place = np.array(list(np.ndindex(grid))) / np.array(grid)
    return _gelu(place @ w1.T + b1) @ w2.T + b2


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))
