"""Attention within every image of a pack, in one pass that stores no scores.

A program takes a block of rows of the pack, whatever images they belong to, and iterates over the keys from the first
of these images to the last. If a block spans several images, a comparison of segments keeps them apart. The softmax is
accumulated block by block (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018).
"""

from __future__ import annotations

import triton
import triton.language as tl

FAR_BELOW = tl.constexpr(-1e30)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def packed_attention(
    query,  # [tokens, HEADS·WIDTH]
    key,
    value,
    segments,  # [tokens] int32, ascending; `images` for the tail
    starts,  # [images + 1] int32, first token of each image and of the tail
    tokens,
    images,
    context,  # [tokens, HEADS·WIDTH]
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,  # WIDTH, rounded up to a power of two
    SCALE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    begin, head = tl.program_id(0) * BLOCK_Q, tl.program_id(1)
    rows = begin + tl.arange(0, BLOCK_Q)
    channels = tl.arange(0, PADDED)
    stride: tl.constexpr = HEADS * WIDTH
    own_places = rows[:, None] * stride + head * WIDTH + channels[None, :]
    own_inside = (rows[:, None] < tokens) & (channels[None, :] < WIDTH)
    q = tl.load(query + own_places, mask=own_inside, other=0.0)
    own = tl.load(segments + rows, mask=rows < tokens, other=-1)

    first = tl.load(segments + begin)
    last = tl.load(segments + tl.minimum(begin + BLOCK_Q, tokens) - 1)
    start = tl.load(starts + first)
    stop = tl.load(starts + last + 1, mask=last < images, other=tokens)

    highest = tl.full([BLOCK_Q], FAR_BELOW, tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    mixed = tl.zeros([BLOCK_Q, PADDED], tl.float32)
    for place in range(start, stop, BLOCK_K):
        keys = place + tl.arange(0, BLOCK_K)
        places = keys[:, None] * stride + head * WIDTH + channels[None, :]
        inside = (keys[:, None] < stop) & (channels[None, :] < WIDTH)
        k = tl.load(key + places, mask=inside, other=0.0)
        v = tl.load(value + places, mask=inside, other=0.0)
        theirs = tl.load(segments + keys, mask=keys < stop, other=-2)
        same = own[:, None] == theirs[None, :]
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (SCALE * LOG2_E)
        scores = tl.where(same, scores, FAR_BELOW)
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.where(same, tl.exp2(scores - higher[:, None]), 0.0)
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        highest = higher
    result = mixed / tl.maximum(total, 1e-30)[:, None]
    tl.store(context + own_places, result.to(context.dtype.element_ty), mask=own_inside)
