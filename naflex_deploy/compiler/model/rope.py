"""Rotary embedding: rotates queries and keys by angles that depend on their patch's position; leaves prefix tokens.

A head's channels form pairs (c, c + d/2), and pair c of a token at (y, x) is rotated by

    axial:  y·f_c for the first half of the pairs, x·f_(c - d/4) for the rest, f_c = temperature^(-4c/d)
    dinov3: the same with y' = 2π·(2·(y + ½)/h - 1), x' likewise
    mixed:  y·F⁰_c + x·F¹_c, with F learned for each block and head
    mrope:  y·f_c, x·f_c or 0 for pairs with c mod 3 = 1, 2 or 0, f_c = temperature^(-2c/d)

For checkpoints that pair neighbouring channels (2c, 2c + 1), the reader reorders the rows of the query and key
projections, which leaves every product q·k unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from naflex_deploy.compiler.model.architecture import Architecture, Rope

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine, each [T, 1 or heads, d/2]."""


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the channel pairs of [T, H, d]."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class RotaryEmbedding(nn.Module):
    """Computes the rotation of every token for every block."""

    def __init__(self, rope: Rope, a: Architecture) -> None:
        super().__init__()
        self.rope = rope
        self.depth = a.depth
        quarter = a.head_width // 4
        if rope.kind == "mixed":
            self.frequencies = nn.Parameter(torch.zeros(a.depth, 2, a.heads, 2 * quarter))
        elif rope.kind == "mrope":
            falling = [rope.temperature ** (-c / (2 * quarter)) for c in range(2 * quarter)]
            ends = [3 * section for section in rope.sections]
            self.by_axis = [
                [f if c % 3 == axis + 1 and c < ends[axis] else 0.0 for c, f in enumerate(falling)] for axis in (0, 1)
            ]
        else:
            self.bands = [rope.temperature ** (-c / quarter) for c in range(quarter)]

    def forward(self, coords: Tensor, token_grid: Tensor, token_kind: Tensor | None) -> list[Rotation]:
        """Return one rotation per block.

        Args:
            coords: Row and column of each token, [T, 2].
            token_grid: Grid (h, w) that each token belongs to, [T, 2].
            token_kind: Kind of each token, [T]: 0 for a patch, above 0 for a prefix token; ``None`` if the model has no
                prefix tokens.
        """
        places = self._places(coords.float(), token_grid.float())
        if token_kind is not None:
            places = places * (token_kind == 0)[:, None]
        if self.rope.column_first:
            places = places.flip(1)
        if self.rope.kind == "mixed":
            return [self._mixed(places, frequencies) for frequencies in self.frequencies]
        if self.rope.kind == "mrope":
            rows, columns = torch.tensor(self.by_axis, device=places.device)
            turned = (places[:, :1] * rows + places[:, 1:] * columns)[:, None]
            return [(turned.cos(), turned.sin())] * self.depth
        bands = torch.tensor(self.bands, device=places.device)
        angles = (places[:, :, None] * bands).flatten(1)[:, None]
        return [(angles.cos(), angles.sin())] * self.depth

    def _places(self, coords: Tensor, grid: Tensor) -> Tensor:
        if self.rope.kind in ("mixed", "mrope"):
            return coords
        if self.rope.kind == "dinov3":
            return 2 * math.pi * (2 * ((coords + 0.5 + self.rope.offset) / grid) - 1)
        places = coords + self.rope.offset
        if self.rope.reference is None:
            return places
        return places / grid * torch.tensor(self.rope.reference, dtype=torch.float32, device=coords.device)

    @staticmethod
    def _mixed(places: Tensor, frequencies: Tensor) -> Rotation:
        """The rotation for [T, 2] positions and [2, H, d/2] frequencies."""
        angles = places[:, 0, None, None] * frequencies[0] + places[:, 1, None, None] * frequencies[1]
        return angles.cos(), angles.sin()
