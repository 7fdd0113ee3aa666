"""Position interpolation in closed form: a resize whose every output token is computed on its own.

``F.interpolate`` resizes a table to one grid at a time and has no packed form; ONNX Resize with antialias is
rejected by TensorRT. A separable resize is linear in the table, so the value at (row, column) of an h×w grid is

    pos = Σ_ij a_h[row, i] · a_w[column, j] · table[i, j]

where a_n[k] is the filter row that resamples n_in entries to n_out:

    s = n_in / n_out,  f = max(1, s) with antialias else 1,  centre = (k + ½)·s
    a[k, i] = w((i + ½ - centre) / f), divided by its sum over i

with w the triangle max(0, 1 - |d|) for bilinear, and Keys' cubic for bicubic: a = -0.5 with antialias, -0.75
without (as torch has them). Without antialias, taps beyond the edge count for the edge entry.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.build.architecture import Positions


class PositionTable(nn.Module):
    """A learned table resized to each token's grid.

    Args:
        positions: Table size and filter.
        width: D, channels of the table.
    """

    def __init__(self, positions: Positions, width: int) -> None:
        super().__init__()
        self.positions = positions
        rows, columns = positions.grid
        self.table = nn.Parameter(torch.zeros(rows * columns, width))

    def forward(self, coords: Tensor, token_grid: Tensor) -> Tensor:
        """Embeddings of tokens.

        Args:
            coords: [T, 2] (row, column) of each token.
            token_grid: [T, 2] (h, w), the grid that each token belongs to.

        Returns:
            [T, D] float.
        """
        (rows, columns), p = self.positions.grid, self.positions
        vertical = filter_weights(coords[:, 0], token_grid[:, 0], rows, p.interpolation, p.antialias)
        horizontal = filter_weights(coords[:, 1], token_grid[:, 1], columns, p.interpolation, p.antialias)
        weights = (vertical[:, :, None] * horizontal[:, None, :]).flatten(1)
        return weights.to(self.table.dtype) @ self.table


def filter_weights(place: Tensor, target: Tensor, source: int, interpolation: str, antialias: bool) -> Tensor:
    """Filter rows that resample ``source`` entries for tokens at ``place`` of ``target``.

    Args:
        place: [T] index of each token along one axis.
        target: [T] size of the token's grid along that axis.
        source: Entries of the table along that axis.
        interpolation: ``bilinear`` or ``bicubic``.
        antialias: Widen the filter by the shrink factor.

    Returns:
        [T, source] float32, rows summing to 1.
    """
    scale = source / target.float()
    centre = (place.float() + 0.5) * scale
    taps = torch.arange(source, device=place.device, dtype=torch.float32) + 0.5
    if not antialias:
        return _edge_clamped(centre, taps, source, interpolation)
    distance = (taps - centre[:, None]) / scale.clamp(min=1.0)[:, None]
    weights = _triangle(distance) if interpolation == "bilinear" else _cubic(distance, -0.5)
    return weights / weights.sum(1, keepdim=True)


def _edge_clamped(centre: Tensor, taps: Tensor, source: int, interpolation: str) -> Tensor:
    """Without antialias: unit-width filter, taps outside the table folded onto its edge entries."""
    if interpolation == "bilinear":
        # Clamping the centre is the same as clamping both taps.
        return _triangle(taps - centre.clamp(0.5, source - 0.5)[:, None])
    margin = 2
    wide = torch.arange(-margin, source + margin, device=centre.device, dtype=torch.float32) + 0.5
    weights = _cubic(wide - centre[:, None], -0.75)
    first = weights[:, : margin + 1].sum(1, keepdim=True)
    last = weights[:, -margin - 1 :].sum(1, keepdim=True)
    if source == 1:
        return torch.ones_like(first)
    return torch.cat([first, weights[:, margin + 1 : -margin - 1], last], dim=1)


def _triangle(distance: Tensor) -> Tensor:
    return F.relu(1.0 - distance.abs())


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
