"""Position interpolation without antialias, which gathers a few table entries around each token's place.

    place = (k + ½)·n_in/n_out - ½, or k·(n_in - 1)/(n_out - 1) with align_corners
    pos = Σ w(place_h - i) · w(place_w - j) · table[i, j]

The sum runs over the two (bilinear) or four (bicubic, Keys' cubic with a = -0.75 as in torch) nearest entries of each
axis; entries beyond the edge are clamped to the edge entry. The cost does not depend on the table's size: with
bilinear interpolation, a 128x128 table costs four rows per token, not 16,384 weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from naflex_deploy.compiler.model.architecture import Positions
from naflex_deploy.compiler.model.positions.interpolation import LearnedTable, cubic, scale_of, target_grid, triangle


class GatheredTable(LearnedTable):
    """A learned table resized to each token's grid by its nearest entries."""

    def forward(self, coords: Tensor, token_grid: Tensor) -> Tensor:
        """Map [T, 2] positions on [T, 2] grids to [T, D] embeddings."""
        p = self.positions
        places = table_places(coords, token_grid, p)
        entries, offsets = nearest_entries(places, p, 2 if p.interpolation == "bilinear" else 4)
        weights = triangle(offsets) if p.interpolation == "bilinear" else cubic(offsets, -0.75)
        product = weights[:, 0, :, None] * weights[:, 1, None, :]
        rows = self.table[pair_entries(entries, p.grid[1])]
        return (product.flatten(1)[:, :, None].to(rows.dtype) * rows).sum(1)


def table_places(coords: Tensor, token_grid: Tensor, positions: Positions) -> Tensor:
    """The place of each token on the table, [T, 2] float32, where entry i is at i."""
    grid = target_grid(token_grid, positions)
    scales = torch.stack(
        [scale_of(grid[:, axis], size, positions.align_corners) for axis, size in enumerate(positions.grid)], dim=1
    )
    if positions.align_corners:
        return coords.float() * scales
    return (coords.float() + 0.5) * scales - 0.5


def nearest_entries(places: Tensor, positions: Positions, taps: int) -> tuple[Tensor, Tensor]:
    """The ``taps`` nearest entries of each axis, and how far the token is beyond each.

    Returns:
        [T, 2, taps] int64 entries, clamped to the table; [T, 2, taps] float32 offsets, not clamped.
    """
    first = places.floor()[:, :, None] - (taps // 2 - 1)
    entries = first + torch.arange(taps, device=places.device, dtype=torch.float32)
    last = torch.tensor(positions.grid, device=places.device)[None, :, None] - 1
    clamped = torch.minimum(entries.long().clamp(min=0), last)
    return clamped, places[:, :, None] - entries


def pair_entries(entries: Tensor, columns: int) -> Tensor:
    """Combine the [T, 2, taps] entries of both axes to [T, taps²] row numbers of the flat table."""
    return (entries[:, 0, :, None] * columns + entries[:, 1, None, :]).flatten(1)
