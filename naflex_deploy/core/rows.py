"""Laying a pack's images into rows of one length, so that attention looks along a row instead of the whole pack.

Rows hold whole images, several where they fit; attention still compares segments inside a row.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naflex_deploy.core.pack import Int32, Pack, Role

ROW_MULTIPLE = 8
"""Lengths of rows for which fused attention with a bias has kernels are multiples of it."""

SEGMENT_TOKENS = 4096
"""Largest budget whose attention takes the whole pack at once. Above, scores of other images' keys cost more than
all linear layers together."""


def rows_needed(tokens: int, length: int) -> int:
    """Rows that first fit needs at most for images of up to ``length`` tokens, ``tokens`` in all.

    Of any two rows, the later one was opened by an image that the earlier one had no room for, so both together
    hold more than ``length`` tokens.
    """
    return 1 if length >= tokens else 2 * tokens // length + 1


def lay_rows(pack: Pack, rows: int, length: int) -> tuple[Int32, Int32]:
    """Place every image of a pack.

    Args:
        pack: Its longest image has at most ``length`` tokens.
        rows: `rows_needed` or more.

    Returns:
        ``pad_index`` [rows, length]: the token at each place, -1 where there is none; ``unpad_index`` [T]: the
        place of each token in the flattened rows, 0 for the tail.
    """
    lengths = np.diff(pack.offsets)
    pad = np.full((rows, length), -1, np.int32)
    unpad = np.zeros(pack.tokens, np.int32)
    free = np.full(rows, length)
    for image in np.argsort(-lengths, kind="stable"):
        start, size = int(pack.offsets[image]), int(lengths[image])
        row = int(np.argmax(free >= size))
        if free[row] < size:
            raise ValueError(f"an image of {size} tokens finds no room in {rows} rows of {length}")
        column = length - int(free[row])
        pad[row, column : column + size] = np.arange(start, start + size)
        unpad[start : start + size] = np.arange(row * length + column, row * length + column + size)
        free[row] -= size
    return pad, unpad


def row_views(pack: Pack, roles: Iterable[Role]) -> dict[Role, Int32]:
    """Those of ``roles`` that place a pack's tokens in rows, for an engine that takes rows of any number and length.

    Rows are as long as the longest image, and a multiple of `ROW_MULTIPLE`.
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
    """Where tokens would lie if every image slot, and the tail, had a row of its own.

    Returns:
        [slots + 1, L] int32, L of the longest: the place in the flattened rows of each token of the pack in turn,
        then the places that hold none.
    """
    lengths = np.diff([*pack.cu_seqlens, pack.tokens])
    held = np.arange(lengths.max()) < lengths[:, None]
    places = np.concatenate([np.flatnonzero(held), np.flatnonzero(~held)])
    return places.astype(np.int32).reshape(held.shape)
