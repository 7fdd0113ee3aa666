"""The packed reference model: a NaFlex vision transformer over one row of tokens from many images.

It takes what an engine takes (see `naflex_deploy.core.pack.Role`) and defines what an engine must return.
Readers fill its weights; nothing else in the toolchain knows a checkpoint's own naming.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from naflex_deploy.build.architecture import Architecture
from naflex_deploy.build.attention import Attention, masked_attention
from naflex_deploy.build.mlp import Mlp
from naflex_deploy.build.pooling import MapPool, MeanPool
from naflex_deploy.build.positions import PositionTable
from naflex_deploy.core.pack import Role

PIXEL_CENTRE = 127.5
"""Subtracted from raw pixels: exact in float16 and bfloat16, and it keeps the folded weights in range."""


class PackedNaFlexViT(nn.Module):
    """A NaFlex vision transformer over packed tokens.

    The projection takes pixels of 0…255 minus `PIXEL_CENTRE`; `fold_normalisation` puts a checkpoint's
    mean and standard deviation into it.

    Args:
        architecture: Shape and options.
        outputs: Of ``pooled``, ``tokens``, ``tokens:-K`` and ``logits``, those to return. ``tokens`` are normed;
            ``tokens:-K`` is the hidden state after the K-th block from the end, before any norm.
        attention: `masked_attention` for export, `ragged_attention` to run eagerly.
    """

    def __init__(
        self,
        architecture: Architecture,
        outputs: Sequence[str] = ("pooled", "tokens"),
        attention: Attention = masked_attention,
    ) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        self.outputs = tuple(outputs)
        self.attention = attention
        self.embed = nn.Linear(a.patch_values, a.width)
        self.positions = PositionTable(a.positions, a.width)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.depth))
        self.norm = nn.LayerNorm(a.width, a.norm_eps)
        self.pool = MapPool(a) if a.pooling == "map" else MeanPool()
        self.classifier = nn.Linear(a.width, a.classes) if a.classes else None

    @property
    def roles(self) -> tuple[Role, ...]:
        """What `forward` takes, in order."""
        return (Role.PATCHES, Role.COORDS, Role.GRID_HW, Role.SEGMENT_IDS)

    def forward(self, patches: Tensor, coords: Tensor, grid_hw: Tensor, segment_ids: Tensor) -> dict[str, Tensor]:
        """Run a pack.

        Args:
            patches: [T, P·P·C] pixels of 0…255, uint8 or float.
            coords: [T, 2] int32 (row, column).
            grid_hw: [M+1, 2] int32, the grid of each image and of the tail.
            segment_ids: [T] int32, the image of each token, ascending; M for the tail.

        Returns:
            ``pooled`` [M, D], ``tokens`` [T, D], ``logits`` [M, classes], as `outputs` asks.
        """
        x = self.embed(patches.to(self.embed.weight.dtype) - PIXEL_CENTRE)
        x = x + self.positions(coords, grid_hw.index_select(0, segment_ids))
        hidden = {}
        for index, block in enumerate(self.blocks):
            x = block(x, segment_ids, self.attention)
            hidden[f"tokens:-{len(self.blocks) - index}"] = x
        tokens = self.norm(x)
        images = torch.arange(grid_hw.shape[0] - 1, device=x.device, dtype=segment_ids.dtype)
        pooled = self.pool(tokens, images, segment_ids, self.attention)
        results = {**hidden, "tokens": tokens, "pooled": pooled}
        if self.classifier is not None:
            results["logits"] = self.classifier(pooled)
        return {name: results[name] for name in self.outputs}


class Block(nn.Module):
    """Pre-norm transformer block. q, k and v stay three projections: their rows slice without a copy."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.heads = a.heads
        self.norm1 = nn.LayerNorm(a.width, a.norm_eps)
        self.query = nn.Linear(a.width, a.width)
        self.key = nn.Linear(a.width, a.width)
        self.value = nn.Linear(a.width, a.width)
        self.out = nn.Linear(a.width, a.width)
        self.norm2 = nn.LayerNorm(a.width, a.norm_eps)
        self.mlp = Mlp(a)

    def forward(self, x: Tensor, segment_ids: Tensor, attention: Attention) -> Tensor:
        h = self.norm1(x)
        q, k, v = (layer(h).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        x = x + self.out(attention(q, k, v, segment_ids, segment_ids).flatten(1))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


@torch.no_grad()
def fold_normalisation(projection: nn.Linear, mean: Sequence[float], std: Sequence[float]) -> None:
    """Make a projection of normalised pixels take centred ones, in place.

    A checkpoint computes ``W·((x/255 - mean)/std) + b`` on pixels x; with c = `PIXEL_CENTRE` that equals
    ``W'·(x - c) + b'`` where ``W' = W/(255·std)`` and ``b' = b + Σ W·(c/255 - mean)/std``.

    Args:
        projection: Its input has channels innermost, as patches do.
        mean, std: One value a channel, on a scale of 0…1.
    """
    weight = projection.weight.double().view(len(projection.weight), -1, len(mean))
    channel_mean, channel_std = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    shift = (weight * ((PIXEL_CENTRE / 255 - channel_mean) / channel_std)).sum((1, 2))
    projection.weight.copy_((weight / (255 * channel_std)).flatten(1))
    projection.bias.copy_(projection.bias.double() + shift)
