"""The text tower: a bidirectional transformer over texts of a fixed length, whose last token becomes the vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.compiler.model.architecture import Activation, Architecture
from naflex_deploy.compiler.model.attention import MASKED
from naflex_deploy.compiler.model.block import Block


@dataclass(frozen=True)
class TextArchitecture:
    """Shape of a text tower.

    Attributes:
        width: Channels of a token.
        depth: Number of transformer blocks.
        heads: Number of attention heads, which divides ``width``.
        mlp_width: Hidden channels of each block's MLP.
        vocabulary: Number of tokens in the vocabulary.
        length: Number of tokens of every text, including padding.
        outputs: D, channels of the text vector.
        activation, norm_eps: As in `Architecture`.
    """

    width: int
    depth: int
    heads: int
    mlp_width: int
    vocabulary: int
    length: int
    outputs: int
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-6

    @property
    def blocks(self) -> Architecture:
        """The architecture of its blocks, which are those of the image tower."""
        return Architecture(
            self.width,
            self.depth,
            self.heads,
            self.mlp_width,
            patch_size=1,
            positions=None,
            activation=self.activation,
            norm_eps=self.norm_eps,
            pooling="none",
        )


class TextTransformer(nn.Module):
    """Token and position embeddings, pre-norm blocks, a norm, and a projection of the last token."""

    def __init__(self, a: TextArchitecture) -> None:
        super().__init__()
        self.architecture, self.length = a, a.length
        self.tokens = nn.Embedding(a.vocabulary, a.width)
        self.positions = nn.Parameter(torch.zeros(a.length, a.width))
        self.blocks = nn.ModuleList(Block(a.blocks) for _ in range(a.depth))
        self.norm = nn.LayerNorm(a.width, a.norm_eps)
        self.head = nn.Linear(a.width, a.outputs)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map [N, length] int64 token numbers to [N, D] vectors.

        Args:
            mask: [N, length] bool, false for padding that no token attends to. Without a mask, padding is attended to,
                as in training.
        """
        x = (self.tokens(ids) + self.positions).flatten(0, 1)
        for block in self.blocks:
            x = block(x, ids if mask is None else mask, self._attend if mask is None else self._attend_masked)
        vectors: Tensor = self.head(self.norm(x.unflatten(0, (-1, self.length))[:, -1]))
        return vectors

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, query_segment: Tensor, segment: Tensor) -> Tensor:
        """Attention inside each text, from [N·length, H, d] to the same; the row tells which text a token is from."""
        q, k, v = (x.view(-1, self.length, *x.shape[1:]).transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)

    def _attend_masked(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, _: Tensor) -> Tensor:
        """The same where the rows of ``mask`` say which tokens of each text are attended to."""
        q, k, v = (x.view(-1, self.length, *x.shape[1:]).transpose(1, 2) for x in (query, key, value))
        bias = torch.where(mask, 0.0, MASKED)[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(0, 1)
