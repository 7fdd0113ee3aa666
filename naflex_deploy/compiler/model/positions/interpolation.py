"""Position interpolation in closed form, which computes the embedding of every token independently.

``F.interpolate`` resizes a table to one grid at a time and has no packed form; TensorRT rejects ONNX Resize with
antialias. A separable resize is linear in the table, so the value at (row, column) of an h×w grid is

    pos = Σ_ij a_h[row, i] · a_w[column, j] · table[i, j]

where a_n[k] is the filter row that resamples n_in entries to n_out:

    s = n_in / n_out,  f = max(1, s),  centre = (k + ½)·s
    a[k, i] = w((i + ½ - centre) / f), divided by its sum over i

with w the triangle max(0, 1 - |d|) for bilinear, and Keys' cubic with a = -0.5 for bicubic, as torch has them.
With align_corners, s = (n_in - 1) / (n_out - 1). The support of this antialiased filter grows with the table, so it is
computed as one product with the whole table. Without antialias a few taps are enough; see `gather`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.compiler.model.architecture import Positions


class LearnedTable(nn.Module):
    """A learned embedding for each cell of a grid, which subclasses resize.

    Args:
        positions: Table size and filter.
        width: D, channels of the table.
    """

    def __init__(self, positions: Positions, width: int) -> None:
        super().__init__()
        self.positions = positions
        rows, columns = positions.grid
        self.table = nn.Parameter(torch.zeros(rows * columns, width))


class PositionTable(LearnedTable):
    """A learned table resized to each token's grid, with antialias."""

    def forward(self, coords: Tensor, token_grid: Tensor) -> Tensor:
        """Return the position embeddings of tokens.

        Args:
            coords: Row and column of each token, [T, 2].
            token_grid: Grid (h, w) that each token belongs to, [T, 2].

        Returns:
            Embeddings, [T, D] float.
        """
        (rows, columns), p = self.positions.grid, self.positions
        grid = target_grid(token_grid, p)
        vertical = filter_weights(coords[:, 0], grid[:, 0], rows, p.interpolation, p.align_corners)
        horizontal = filter_weights(coords[:, 1], grid[:, 1], columns, p.interpolation, p.align_corners)
        weights = (vertical[:, :, None] * horizontal[:, None, :]).flatten(1)
        return weights.to(self.table.dtype) @ self.table


def target_grid(token_grid: Tensor, positions: Positions) -> Tensor:
    """The size that the table is resized to for each token, [T, 2]."""
    return token_grid.amax(1, keepdim=True).expand(-1, 2) if positions.square else token_grid


def scale_of(target: Tensor, source: int, align_corners: bool) -> Tensor:
    """The s of the formula, in table entries per step of the grid; it is rounded only once."""
    if align_corners:
        steps = target.float() - 1
        return torch.full_like(steps, source - 1) / steps.clamp(min=1) * (target > 1)
    return torch.full_like(target, source, dtype=torch.float32) / target.float()


def filter_weights(
    place: Tensor, target: Tensor, source: int, interpolation: str, align_corners: bool = False
) -> Tensor:
    """Filter rows that resample ``source`` entries, with antialias, for tokens at ``place`` of ``target``.

    Args:
        place: Index of each token along one axis, [T].
        target: Size of the token's grid along that axis, [T].
        source: Number of table entries along that axis.
        interpolation: ``bilinear`` or ``bicubic``.
        align_corners: See `Positions`.

    Returns:
        Filter rows, [T, source] float32, each of which sums to 1.
    """
    scale = scale_of(target, source, True) if align_corners else source / target.float()
    centre = (place.float() + 0.5) * scale
    taps = torch.arange(source, device=place.device, dtype=torch.float32) + 0.5
    distance = (taps - centre[:, None]) / scale.clamp(min=1.0)[:, None]
    weights = triangle(distance) if interpolation == "bilinear" else cubic(distance, -0.5)
    return weights / weights.sum(1, keepdim=True)


def triangle(distance: Tensor) -> Tensor:
    """The bilinear kernel."""
    return F.relu(1.0 - distance.abs())


def cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
