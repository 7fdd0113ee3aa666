"""Pools the tokens of each image into one vector.

Every pooling takes [T, D] tokens, [M] image numbers, [T] segments and the attention in use, and returns [M, D].
A token counts towards the image that its segment names; tokens that pooling leaves out carry the tail's number, M.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from naflex_deploy.compiler.model.architecture import Architecture
from naflex_deploy.compiler.model.attention import MASKED, Attention
from naflex_deploy.compiler.model.mlp import Mlp


class MapPool(nn.Module):
    """Multihead attention pooling: one learned probe attends to an image's tokens, then an MLP.

    There is no residual from the probe: ``y = attention(probe, tokens)``, ``y + mlp(norm(y))``.
    """

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.heads = a.pool_heads or a.heads
        self.probe = nn.Parameter(torch.zeros(1, a.width))
        self.query = nn.Linear(a.width, a.width)
        self.key = nn.Linear(a.width, a.width)
        self.value = nn.Linear(a.width, a.width)
        self.out = nn.Linear(a.width, a.width)
        self.norm = nn.LayerNorm(a.width, a.norm_eps)
        self.mlp = Mlp(a.width, a.pool_mlp_width or a.mlp_width, a.activation)

    def forward(self, tokens: Tensor, images: Tensor, segment_ids: Tensor, attention: Attention) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1))
            for layer, x in ((self.query, self.probe), (self.key, tokens), (self.value, tokens))
        )
        y = self.out(attention(q, k, v, images, segment_ids).flatten(1))
        pooled: Tensor = y + self.mlp(self.norm(y))
        return pooled


class MeanPool(nn.Module):
    """The mean of an image's tokens; zeros for an image without tokens."""

    def forward(self, tokens: Tensor, images: Tensor, segment_ids: Tensor, attention: Attention) -> Tensor:
        member = (images[:, None] == segment_ids[None, :]).to(tokens.dtype)
        # The weights are divided first, because the sum of many tokens would leave the range of float16.
        return (member / member.sum(1, keepdim=True).clamp(min=1)) @ tokens


class MaxPool(nn.Module):
    """The largest value of each channel; `MASKED` for an image without tokens."""

    def forward(self, tokens: Tensor, images: Tensor, segment_ids: Tensor, attention: Attention) -> Tensor:
        lowest = torch.full((images.shape[0] + 1, tokens.shape[1]), MASKED, dtype=tokens.dtype, device=tokens.device)
        index = segment_ids.long()[:, None].expand(-1, tokens.shape[1])
        return lowest.scatter_reduce(0, index, tokens, "amax")[:-1]


class MeanMaxPool(nn.Module):
    """The average of the mean and the largest value of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanPool()
        self.max = MaxPool()

    def forward(self, tokens: Tensor, images: Tensor, segment_ids: Tensor, attention: Attention) -> Tensor:
        arguments = (tokens, images, segment_ids, attention)
        pooled: Tensor = 0.5 * (self.mean(*arguments) + self.max(*arguments))
        return pooled


def make_pool(a: Architecture) -> nn.Module | None:
    """The pooling of an architecture. The class token is pooled as the mean of the one token that counts."""
    match a.pooling:
        case "map":
            return MapPool(a)
        case "mean" | "class":
            return MeanPool()
        case "max":
            return MaxPool()
        case "mean_max":
            return MeanMaxPool()
        case "none":
            return None
