"""The transformer block."""

from __future__ import annotations

from torch import Tensor, nn

from naflex_deploy.compiler.model.architecture import Architecture
from naflex_deploy.compiler.model.attention import Attention
from naflex_deploy.compiler.model.mlp import Mlp
from naflex_deploy.compiler.model.rope import Rotation, rotate


class Block(nn.Module):
    """Pre-norm transformer block. q, k and v stay separate projections, whose rows can be sliced without a copy."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.heads = a.heads
        self.norm1 = nn.LayerNorm(a.width, a.norm_eps)
        self.query = nn.Linear(a.width, a.width)
        self.key = nn.Linear(a.width, a.width)
        self.value = nn.Linear(a.width, a.width)
        self.query_norm = nn.LayerNorm(a.head_width, a.norm_eps) if a.qk_norm else None
        self.key_norm = nn.LayerNorm(a.head_width, a.norm_eps) if a.qk_norm else None
        self.attention_norm = nn.LayerNorm(a.width, a.norm_eps) if a.attention_norm else None
        self.gate = nn.Linear(a.width, a.width) if a.attention_gate else None
        self.out = nn.Linear(a.width, a.width)
        self.norm2 = nn.LayerNorm(a.width, a.norm_eps)
        mlp_norm_eps = a.norm_eps if a.mlp_norm else None
        activation = "silu" if a.gated_mlp else a.activation
        self.mlp = Mlp(a.width, a.mlp_width, activation, gated=a.gated_mlp, norm_eps=mlp_norm_eps)

    def forward(self, x: Tensor, segment_ids: Tensor, attention: Attention, rotation: Rotation | None = None) -> Tensor:
        """Map [T, D] tokens, with their [T] segments, to [T, D]."""
        x = x + self._attend(self.norm1(x), segment_ids, attention, rotation)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def _attend(self, h: Tensor, segment_ids: Tensor, attention: Attention, rotation: Rotation | None) -> Tensor:
        q, k, v = (layer(h).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        context = attention(q, k, v, segment_ids, segment_ids).flatten(1)
        if self.attention_norm is not None:
            context = self.attention_norm(context)
        if self.gate is not None:
            context = context * self.gate(h).sigmoid()
        attended: Tensor = self.out(context)
        return attended
