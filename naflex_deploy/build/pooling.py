"""From an image's tokens to one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from naflex_deploy.build.architecture import Architecture
from naflex_deploy.build.attention import Attention
from naflex_deploy.build.mlp import Mlp


class MapPool(nn.Module):
    """Multihead attention pooling: one learned probe attends to an image's tokens, then an MLP.

    There is no residual from the probe: ``y = attention(probe, tokens)``, ``y + mlp(norm(y))``.
    """

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.heads = a.heads
        self.probe = nn.Parameter(torch.zeros(1, a.width))
        self.query = nn.Linear(a.width, a.width)
        self.key = nn.Linear(a.width, a.width)
        self.value = nn.Linear(a.width, a.width)
        self.out = nn.Linear(a.width, a.width)
        self.norm = nn.LayerNorm(a.width, a.norm_eps)
        self.mlp = Mlp(a)

    def forward(self, tokens: Tensor, images: Tensor, segment_ids: Tensor, attention: Attention) -> Tensor:
        """[T, D] tokens, [M] image numbers, [T] segments → [M, D]."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1))
            for layer, x in ((self.query, self.probe), (self.key, tokens), (self.value, tokens))
        )
        y = self.out(attention(q, k, v, images, segment_ids).flatten(1))
        pooled: Tensor = y + self.mlp(self.norm(y))
        return pooled


class MeanPool(nn.Module):
    """The mean of an image's patch tokens."""

    def forward(self, tokens: Tensor, images: Tensor, segment_ids: Tensor, attention: Attention) -> Tensor:
        """[T, D] tokens, [M] image numbers, [T] segments → [M, D]; zeros for an image without tokens."""
        member = (images[:, None] == segment_ids[None, :]).to(tokens.dtype)
        return (member @ tokens) / member.sum(1, keepdim=True).clamp(min=1)
