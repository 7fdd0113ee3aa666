"""Two trainable position embeddings that no published checkpoint uses.

``learned_softmax`` is an interpolation whose weights are learned: with (y, x) the token's place on the table and n one
of its four nearest entries,

    pos = Σ_n w_n · table[n],   w = softmax_n(v · gelu(W·(y - y_n, x - x_n) + b) + c)

Unlike a triangle, these weights jump where the token passes an entry. The nearest entries are therefore found in
integers, since in float32 a token that falls exactly on an entry could be rounded to either side of it.

``coordinate_mlp`` works with or without a table: the token at (i, j) of an h×w grid gets

    pos = W₂ · gelu(W₁·(i/h, j/w) + b₁) + b₂
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.compiler.model.architecture import Positions
from naflex_deploy.compiler.model.positions.gather import pair_entries
from naflex_deploy.compiler.model.positions.interpolation import LearnedTable, target_grid

HIDDEN = 16
"""Hidden channels of the MLP that scores an offset."""


class SoftmaxTable(LearnedTable):
    """A learned table whose four nearest entries are weighted by a learned function of their offsets.

    Args:
        positions: Table size, and ``align_corners``.
        width: D, channels of the table.
    """

    def __init__(self, positions: Positions, width: int) -> None:
        super().__init__(positions, width)
        self.hidden = nn.Linear(2, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)

    def forward(self, coords: Tensor, token_grid: Tensor) -> Tensor:
        """[T, 2] places and [T, 2] grids → [T, D] embeddings."""
        entries, offsets = surrounding_entries(coords, token_grid, self.positions)
        vertical, horizontal = offsets[:, 0, :, None].expand(-1, 2, 2), offsets[:, 1, None, :].expand(-1, 2, 2)
        pairs = torch.stack([vertical.flatten(1), horizontal.flatten(1)], dim=-1).to(self.table.dtype)
        weights: Tensor = self.score(F.gelu(self.hidden(pairs))).softmax(1)
        return (weights * self.table[pair_entries(entries, self.positions.grid[1])]).sum(1)


def surrounding_entries(coords: Tensor, token_grid: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
    """The two nearest entries of each axis, found exactly, and how far the token is beyond each.

    The place of `gather.table_places` is a fraction: k·(n - 1)/(m - 1) with align_corners, else ((2k + 1)·n - m)/2m,
    for n entries and a grid of m.

    Returns:
        [T, 2, 2] int64 entries, clamped to the table; [T, 2, 2] float32 offsets, not clamped.
    """
    place, grid = coords.long(), target_grid(token_grid, positions).long()
    size = torch.tensor(positions.grid, device=coords.device)
    if positions.align_corners:
        # A grid of one row or column lies on the first entry.
        numerator, denominator = place * (size - 1), (grid - 1).clamp(min=1)
    else:
        numerator, denominator = (2 * place + 1) * size - grid, 2 * grid
    # The numerator is shifted by one entry, because integer division rounds towards zero and the place can be negative.
    first = torch.div(numerator + denominator, denominator, rounding_mode="trunc") - 1
    offset = (numerator - first * denominator).float() / denominator.float()
    entries = torch.stack([first, first + 1], dim=-1)
    clamped = torch.minimum(entries.clamp(min=0), size[:, None] - 1)
    return clamped, torch.stack([offset, offset - 1], dim=-1)


class CoordinateMlp(nn.Module):
    """An MLP of the patch's relative position in its image.

    Args:
        hidden: Hidden channels.
        width: D, channels of a token.
    """

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, coords: Tensor, token_grid: Tensor) -> Tensor:
        """[T, 2] places and [T, 2] grids → [T, D] embeddings."""
        place = coords.float() / token_grid.float()
        embedding: Tensor = self.fc2(F.gelu(self.fc1(place.to(self.fc1.weight.dtype))))
        return embedding
