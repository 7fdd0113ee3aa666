"""Resizes a position table to every token's own grid, with antialias.

For a token at (y, x) of an h×w grid and a table of ROWS×COLUMNS entries,

    position = Σ_ij a_h[y, i] · a_w[x, j] · table[i, j]
    s = ROWS / h,  a_h[y, i] ∝ filter((i + ½ - (y + ½)·s) / max(1, s)),  a_w likewise

where the filter is the triangle, or Keys' cubic with a = -½, and the weights of an axis sum to 1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _weights(place, size, entries, ENTRIES: tl.constexpr, CUBIC: tl.constexpr):
    """Filter weights along one axis, [tokens, padded entries] float32."""
    scale = ENTRIES / size.to(tl.float32)
    centre = (place.to(tl.float32) + 0.5) * scale
    distance = tl.abs(entries.to(tl.float32)[None, :] + 0.5 - centre[:, None]) / tl.maximum(scale, 1.0)[:, None]
    if CUBIC:
        near = (1.5 * distance - 2.5) * distance * distance + 1.0
        far = -0.5 * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
        weights = tl.where(distance <= 1.0, near, tl.where(distance < 2.0, far, 0.0))
    else:
        weights = tl.maximum(1.0 - distance, 0.0)
    weights = tl.where(entries[None, :] < ENTRIES, weights, 0.0)
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def position_interpolation(
    coords,  # [tokens, 2] int32
    grids,  # [images + 1, 2] int32
    segments,  # [tokens] int32
    table,  # [ROWS·COLUMNS, WIDTH]
    tokens,
    positions,  # [tokens, WIDTH]
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    CUBIC: tl.constexpr,
    PADDED_ROWS: tl.constexpr,  # ROWS and COLUMNS, rounded up to a power of two, at least 16
    PADDED_COLUMNS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    places = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channels = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = places < tokens
    segment = tl.load(segments + places, mask=inside, other=0)
    height = tl.load(grids + 2 * segment)
    width = tl.load(grids + 2 * segment + 1)
    row = tl.load(coords + 2 * places, mask=inside, other=0)
    column = tl.load(coords + 2 * places + 1, mask=inside, other=0)
    all_rows = tl.arange(0, PADDED_ROWS)
    vertical = _weights(row, height, all_rows, ROWS, CUBIC)
    all_columns = tl.arange(0, PADDED_COLUMNS)
    horizontal = _weights(column, width, all_columns, COLUMNS, CUBIC)
    result = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for index in range(ROWS):
        entries = (index * COLUMNS + all_columns)[:, None] * WIDTH + channels[None, :]
        there = (all_columns[:, None] < COLUMNS) & (channels[None, :] < WIDTH)
        values = tl.load(table + entries, mask=there, other=0.0)
        share = tl.sum(tl.where(all_rows[None, :] == index, vertical, 0.0), 1)
        weights = (share[:, None] * horizontal).to(values.dtype)
        result += tl.dot(weights, values, input_precision="ieee")
    where = places[:, None] * WIDTH + channels[None, :]
    stored = inside[:, None] & (channels[None, :] < WIDTH)
    tl.store(positions + where, result.to(positions.dtype.element_ty), mask=stored)
