"""Laying a pack's images into rows of one length, so that attention looks along a row instead of the whole pack.

Rows hold whole images, several where they fit; attention still compares segments inside a row.
"""

from __future__ import annotations

import numpy as np

from naflex_deploy.core.pack import Int32, Pack

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
