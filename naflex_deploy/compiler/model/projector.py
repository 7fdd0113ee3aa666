"""The step from image tokens to those of a language model, for a whole pack.

A language model takes the tokens of an image block by block, and the blocks row by row; a block is s×s neighbouring
tokens, joined along their channels, row by row. Images lie in a pack one after another with grids of multiples of s, so
every block lies on s² rows of the pack from a multiple of s², counted in the order of blocks:

    block of row t:  (i, j) = (⌊b·s/w⌋, b - i·w/s), b = ⌊(y·w + x)/s²⌋
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.compiler.model.architecture import Projector


class VlmProjector(nn.Module):
    """Two layers on joined blocks of tokens.

    Args:
        projector: Its options.
        width: D, channels of a token.
        tap: Whether it takes a hidden state on the way: its norm is on blocks, and its hidden layer as wide as them.
    """

    def __init__(self, projector: Projector, width: int, *, tap: bool = False) -> None:
        super().__init__()
        joined = width * projector.merge**2
        hidden = joined if tap else projector.hidden
        self.joined = joined
        self.on_blocks = tap or projector.norm == "block"
        self.silu = projector.activation == "silu"
        has_norm = tap or projector.norm != "none"
        self.norm = nn.LayerNorm(joined if self.on_blocks else width, projector.norm_eps) if has_norm else None
        self.fc1 = nn.Linear(joined, hidden)
        self.fc2 = nn.Linear(hidden, projector.width)

    def forward(self, tokens: Tensor, blocks: Tensor | None) -> Tensor:
        """Project tokens.

        Args:
            tokens: [T, D].
            blocks: The tokens of each block, one block after another, [T], see `block_rows`; ``None`` where none are
                joined.

        Returns:
            [T/s², width].
        """
        x = tokens
        if self.norm is not None and not self.on_blocks:
            x = self.norm(x)
        if blocks is not None:
            x = x.index_select(0, blocks).reshape(-1, self.joined)
        if self.norm is not None and self.on_blocks:
            x = self.norm(x)
        x = self.fc1(x)
        y: Tensor = self.fc2(F.silu(x) if self.silu else F.gelu(x))
        return y


def block_rows(coords: Tensor, token_grid: Tensor, side: int) -> Tensor:
    """The rows of the pack that form each block, in the order in which a language model takes them.

    Args:
        coords: Row and column of each token, [T, 2].
        token_grid: Grid (h, w) that each token belongs to, [T, 2]; both are multiples of ``side``, but for the tail.
        side: s.

    Returns:
        [⌈T/s²⌉·s²] int64. Blocks of the tail name any rows.
    """
    tokens = coords.shape[0]
    y, x = coords[:: side * side].long().unbind(1)
    width = token_grid[:: side * side, 1].long()
    place = y * width + x
    block = _quotient(place, side * side)
    across = _quotient(width, side).clamp(min=1)
    row = _quotient(block, across)
    column = block - row * across
    start = torch.arange(tokens, device=coords.device)[:: side * side] - place
    first = start + row * side * width + column * side
    steps = torch.arange(side, device=coords.device)
    rows = first[:, None, None] + steps[:, None] * width[:, None, None] + steps
    return rows.flatten().clamp(max=tokens - 1)


def _quotient(dividend: Tensor, divisor: Tensor | int) -> Tensor:
    """The integer quotient of numbers that are not negative. Floor division of integers would be exported by operators
    for which ONNX Runtime has no CUDA kernel."""
    return torch.div(dividend, divisor, rounding_mode="trunc")
