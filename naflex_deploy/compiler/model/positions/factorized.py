"""Factorized positions: the sum of a table of rows and a table of columns, each resized linearly.

    pos = Σ_i a[row, i] · rows[i] + Σ_j a[column, j] · columns[j]

where a holds the two taps of a linear resize without antialias, max(0, 1 - |i - place|), with ``place`` as in `gather`
and clamped to the table. Both sums are computed as one product with the concatenated tables.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from naflex_deploy.compiler.model.architecture import Positions
from naflex_deploy.compiler.model.positions.gather import table_places
from naflex_deploy.compiler.model.positions.interpolation import triangle


class FactorizedTables(nn.Module):
    """Two learned one-dimensional tables.

    Args:
        positions: Sizes of the tables, and ``square``.
        width: D, channels of the tables.
    """

    def __init__(self, positions: Positions, width: int) -> None:
        super().__init__()
        self.positions = positions
        self.table = nn.Parameter(torch.zeros(sum(positions.grid), width))

    def forward(self, coords: Tensor, token_grid: Tensor) -> Tensor:
        """Map [T, 2] positions on [T, 2] grids to [T, D] embeddings."""
        places = table_places(coords, token_grid, self.positions)
        weights = [
            triangle(torch.arange(size, device=places.device) - places[:, axis : axis + 1].clamp(0, size - 1))
            for axis, size in enumerate(self.positions.grid)
        ]
        return torch.cat(weights, dim=1).to(self.table.dtype) @ self.table
