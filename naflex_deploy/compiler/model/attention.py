"""Attention over a pack, in which queries see only the keys of their own segment.

The same function has two forms. ``masked_attention`` is the exported one, with stock operators, any number of images
and a T×T mask. ``ragged_attention`` runs image by image with memory linear in T, for training and for reference
outputs; tests check that both give the same result.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED = -3e4
"""Score of a key in another segment: far below any real score, and finite in float16."""


class Attention(Protocol):
    """Scaled dot-product attention between segments.

    Args (of the call):
        query: Queries, [Tq, H, d], or [1, H, d] for one query shared by all segments.
        key, value: Keys and values, [T, H, d].
        query_segment: Segment of each query, [Tq] int, ascending.
        segment: Segment of each key, [T] int, ascending except for keys that pooling leaves out, which carry the
            segment of the tail.

    Returns:
        [Tq, H, d].
    """

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, query_segment: Tensor, segment: Tensor) -> Tensor: ...


def masked_attention(query: Tensor, key: Tensor, value: Tensor, query_segment: Tensor, segment: Tensor) -> Tensor:
    """``softmax(where(same segment, q·kᵀ/√d, -3e4))·v`` over the whole pack."""
    scale = query.shape[-1] ** -0.5
    scores = (query * scale).transpose(0, 1) @ key.permute(1, 2, 0)
    same = query_segment[:, None] == segment[None, :]
    scores = torch.where(same[None], scores, MASKED)
    return (scores.softmax(-1) @ value.transpose(0, 1)).transpose(0, 1)


def ragged_attention(query: Tensor, key: Tensor, value: Tensor, query_segment: Tensor, segment: Tensor) -> Tensor:
    """Compute the same, one image at a time. A segment without keys yields zeros."""
    outputs = []
    for image in torch.unique(query_segment):
        own_query = query if query.shape[0] == 1 else query[query_segment == image]
        own = segment == image
        if own.any():
            q, k, v = (tensor.transpose(0, 1)[None] for tensor in (own_query, key[own], value[own]))
            outputs.append(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))
        else:
            outputs.append(torch.zeros_like(own_query))
    return torch.cat(outputs)
