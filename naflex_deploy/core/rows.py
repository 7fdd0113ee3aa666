"""Lay the images of a pack out in rows of one length, so that attention spans a row instead of the whole pack.

A row holds whole images, several where they fit, so attention still masks by segment inside a row.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naflex_deploy.core.pack import Int32, Pack, Role

ROW_MULTIPLE = 8
"""Fused attention with a bias has kernels only for row lengths that are multiples of this."""

SEGMENT_TOKENS = 4096
"""Largest budget at which attention spans the whole pack. Above it, attention scores between different images cost
more than all linear layers together."""


def rows_needed(tokens: int, length: int) -> int:
    """Upper bound on the rows that first fit needs for images of up to ``length`` tokens, ``tokens`` in total.

    Of any two rows, the later one was opened by an image that the earlier one had no room for, so both together
    hold more than ``length`` tokens.
    """
    return 1 if length >= tokens else 2 * tokens // length + 1


def lay_rows(pack: Pack, rows: int, length: int) -> tuple[Int32, Int32]:
    """Place every image of a pack in a row.

    Args:
        pack: A pack whose longest image has at most ``length`` tokens.
        rows: Number of rows; at least `rows_needed`.
        length: Tokens per row.

    Returns:
        ``pad_index`` [rows, length]: the token at each position, -1 where there is none; ``unpad_index`` [T]: the
        position of each token in the flattened rows, 0 for the tail.
    """
    lengths = np.diff(pack.offsets)
    pad = np.full((rows, length), -1, np.int32)
    unpad = np.zeros(pack.tokens, np.int32)
    free = np.full(rows, length)
    for image in np.argsort(-lengths, kind="stable"):
        start, size = int(pack.offsets[image]), int(lengths[image])
        row = int(np.argmax(free >= size))
        if free[row] < size:
            raise ValueError(f"an image of {size} tokens does not fit into {rows} rows of {length} tokens")
        column = length - int(free[row])
        pad[row, column : column + size] = np.arange(start, start + size)
        unpad[start : start + size] = np.arange(row * length + column, row * length + column + size)
        free[row] -= size
    return pad, unpad


def row_views(pack: Pack, roles: Iterable[Role]) -> dict[Role, Int32]:
    """The views among ``roles`` that place tokens in rows, for an engine that takes any number and length of rows.

    Rows are as long as the longest image, rounded up to a multiple of `ROW_MULTIPLE`.
    """
    wanted = set(roles)
    views: dict[Role, Int32] = {}
    if Role.TOKEN_OFFSET in wanted:
        views[Role.TOKEN_OFFSET] = token_offsets(pack)
    if Role.PAD_INDEX in wanted:
        length = -(-int(np.diff(pack.offsets).max()) // ROW_MULTIPLE) * ROW_MULTIPLE
        pad, unpad = lay_rows(pack, rows_needed(pack.tokens, length), length)
        views[Role.PAD_INDEX] = pad[: int((pad >= 0).any(1).sum())]  # first fit leaves the last rows empty
        views[Role.UNPAD_INDEX] = unpad
    return views


def token_offsets(pack: Pack) -> Int32:
    """Positions of the tokens if every image slot, and the tail, had a row of its own.

    Returns:
        [slots + 1, L] int32, where L is the longest length: first the position of each token of the pack in the
        flattened rows, then the positions that hold no token.
    """
    lengths = np.diff([*pack.cu_seqlens, pack.tokens])
    held = np.arange(lengths.max()) < lengths[:, None]
    places = np.concatenate([np.flatnonzero(held), np.flatnonzero(~held)])
    return places.astype(np.int32).reshape(held.shape)
