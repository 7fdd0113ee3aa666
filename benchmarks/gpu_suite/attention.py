"""Attention within each image of a pack on a GPU, by torch's flash attention or the Triton kernel of ``plugins/``."""

from __future__ import annotations

import torch
from torch import Tensor


def _older_varlen(
    query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, ends: Tensor, longest_query: int, longest: int
) -> Tensor:
    """Stand in for ``varlen_attn``, which torch has from 2.10 on."""
    sizes = (longest_query, longest, 0.0, False, False)
    return torch.ops.aten._flash_attention_forward(query, key, value, query_ends, ends, *sizes)[0]  # type: ignore[no-any-return]


try:
    from torch.nn.attention.varlen import varlen_attn as varlen_flash
except ImportError:
    varlen_flash = _older_varlen  # type: ignore[assignment]


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Tensor,
    ends: Tensor,
    blocks: tuple[int, int, int] | None = None,
) -> Tensor:
    """Run our kernel on [T, H, d] tensors."""
    import triton

    from plugins.kernels.packed_attention import packed_attention as kernel
    from plugins.launches import attention_constants, attention_grid

    tokens, heads, width = query.shape
    constants = attention_constants(heads, width, width**-0.5)
    grid = attention_grid(tokens, heads, triton.cdiv)
    options: dict[str, int] = {}
    if blocks is not None:
        constants |= {"BLOCK_Q": blocks[0], "BLOCK_K": blocks[1]}
        grid, options = (triton.cdiv(tokens, blocks[0]), heads), {"num_warps": blocks[2]}
    context = torch.empty_like(query)
    inputs = (query.contiguous(), key.contiguous(), value.contiguous(), segments, ends)
    kernel[grid](*inputs, tokens, len(ends) - 1, context, **constants, **options)
    return context
