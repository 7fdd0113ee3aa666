"""Which images of a pack attend in a slot of their own, and which together in rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.pack import Int32, Pack, Patches, Role

SLOT = 2000.0
"""What a slot costs besides its scores, in units of one score of all heads."""
ROW_TOKEN = 60.0
"""What laying a token into rows and taking it out again costs, in the same unit. A score in rows costs what one in a
slot does: 24 ns on a core of Zen 4, for the 12 heads of a ViT-B in bf16."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A pack with its longest images first and without a tail, and where its images attend.

    Attributes:
        given: The pack as it came.
        pack: As the graph takes it.
        order: [M] the images of the given pack, in the order of this one.
        views: Inputs by role.
    """

    given: Pack
    pack: Pack
    order: npt.NDArray[np.int64]
    views: dict[Role, Int32]

    @classmethod
    def of(cls, pack: Pack, slots: int) -> Layout:
        """Lay a pack out for a graph with so many slots."""
        lengths = np.diff(pack.offsets)
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
        own = slots_used(lengths, slots)
        slot_lengths = np.zeros(slots + 1, np.int32)
        slot_lengths[:own], slot_lengths[slots] = lengths[:own], lengths[own:].sum()
        pad, unpad = _rows(lengths[own:])
        views = {Role.SLOT_LENGTHS: slot_lengths, Role.PAD_INDEX: pad, Role.UNPAD_INDEX: unpad}
        return cls(pack, _reordered(pack, order), order, views)

    def restored(self, values: npt.NDArray[np.generic], tokens_per_row: int) -> npt.NDArray[np.generic]:
        """An output in the order of the given pack, rows of the tail zero.

        Args:
            values: [M, …] of images, or [T, …] of tokens, or of blocks of tokens, without a tail.
            tokens_per_row: Tokens of a row; 0 where its rows are images.
        """
        if self.pack is self.given:
            return values
        if not tokens_per_row:
            found = np.empty_like(values)
            found[self.order] = values
            return found
        found = np.zeros((-(-self.given.tokens // tokens_per_row), *values.shape[1:]), values.dtype)
        for place, image in enumerate(self.order):
            start, end = self.given.offsets[image : image + 2]
            first, own = self.pack.offsets[place] // tokens_per_row, (end - start) // tokens_per_row
            found[start // tokens_per_row :][:own] = values[first:][:own]
        return found


def slots_used(lengths: npt.NDArray[np.int64], slots: int) -> int:
    """How many of the longest images attend in slots, for the least cost.

    Args:
        lengths: [M] tokens of images, the longest first.
        slots: Of the graph.
    """
    squares = np.concatenate([[0], np.cumsum(lengths.astype(np.float64) ** 2)])
    longest = np.concatenate([lengths, [0]])
    own = np.arange(min(slots, len(lengths)) + 1)
    rest = (len(lengths) - own) * longest[own]
    costs = SLOT * own + squares[own] + rest * (longest[own] + ROW_TOKEN)
    return int(np.argmin(costs))


def _rows(lengths: npt.NDArray[np.int64]) -> tuple[Int32, Int32]:
    """The token at each place of rows of one image each, -1 where there is none; the place of each token."""
    if not len(lengths):
        return np.zeros((0, 1), np.int32), np.zeros(0, np.int32)
    held = np.arange(lengths.max()) < lengths[:, None]
    pad = np.full(held.shape, -1, np.int32)
    pad[held] = np.arange(lengths.sum())
    return pad, np.flatnonzero(held).astype(np.int32)


def _reordered(pack: Pack, order: npt.NDArray[np.int64]) -> Pack:
    if pack.tokens == pack.useful_tokens and np.array_equal(order, np.arange(pack.images)):
        return pack
    starts, ends = pack.offsets[:-1] + pack.prefix, pack.offsets[1:]
    grids = pack.grid_hw.tolist()
    images = [Patches(pack.patches[starts[i] : ends[i]], tuple(grids[i])) for i in order.tolist()]
    return Pack.of(images, prefix=pack.prefix)
