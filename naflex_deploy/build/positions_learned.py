"""Two trainable ways to tell a token its place that no published checkpoint has.

``learned_softmax``, an interpolation whose weights are learned: with (y, x) the token's place on the table and n one
of its four nearest entries,

    pos = Σ_n w_n · table[n],   w = softmax_n(v · gelu(W·(y - y_n, x - x_n) + b) + c)

``coordinate_mlp``, no table at all or beside one: the token at (i, j) of an h×w grid gets

    pos = W₂ · gelu(W₁·(i/h, j/w) + b₁) + b₂
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.build.architecture import Positions
from naflex_deploy.build.positions_gather import nearest_entries, pair_entries, table_places

HIDDEN = 16
"""Hidden channels of the MLP that scores an offset."""


class SoftmaxTable(nn.Module):
    """A learned table whose four nearest entries are weighed by a learned function of their offsets.

    Args:
        positions: Table size, and ``align_corners``.
        width: D, channels of the table.
    """

    def __init__(self, positions: Positions, width: int) -> None:
        super().__init__()
        self.positions = positions
        rows, columns = positions.grid
        self.table = nn.Parameter(torch.zeros(rows * columns, width))
        self.hidden = nn.Linear(2, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)

    def forward(self, coords: Tensor, token_grid: Tensor) -> Tensor:
        """[T, 2] places and [T, 2] grids → [T, D] embeddings."""
        places = table_places(coords, token_grid, self.positions)
        entries, offsets = nearest_entries(places, self.positions, 2)
        vertical, horizontal = offsets[:, 0, :, None].expand(-1, 2, 2), offsets[:, 1, None, :].expand(-1, 2, 2)
        pairs = torch.stack([vertical.flatten(1), horizontal.flatten(1)], dim=-1).to(self.table.dtype)
        weights: Tensor = self.score(F.gelu(self.hidden(pairs))).softmax(1)
        return (weights * self.table[pair_entries(entries, self.positions.grid[1])]).sum(1)


class CoordinateMlp(nn.Module):
    """An MLP of the patch's place in its image.

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
