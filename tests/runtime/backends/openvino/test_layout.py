"""Where images of a pack attend: every token once, whatever the pack."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.runtime.backends.openvino.layout import Layout, slots_used

GRID = st.tuples(st.integers(1, 6), st.integers(1, 6))


def numbered(grids: list[tuple[int, int]], prefix: int, tail: int) -> Pack:
    """A pack whose images are told apart by their pixels."""
    images = [Patches(np.full((h * w, 3), number, np.uint8), (h, w)) for number, (h, w) in enumerate(grids)]
    return Pack.of(images, prefix=prefix, tokens=sum(h * w + prefix for h, w in grids) + tail)


@given(st.lists(GRID, min_size=1, max_size=9), st.integers(0, 2), st.integers(0, 5), st.integers(1, 4))
def test_every_token_attends_once_and_comes_back(
    grids: list[tuple[int, int]], prefix: int, tail: int, slots: int
) -> None:
    pack = numbered(grids, prefix, tail)
    layout = Layout.of(pack, slots)
    lengths = np.diff(layout.pack.offsets)
    in_slots, pad = layout.views[Role.SLOT_LENGTHS], layout.views[Role.PAD_INDEX]
    unpad = layout.views[Role.UNPAD_INDEX]
    assert (np.diff(lengths) <= 0).all()
    assert in_slots.sum() == layout.pack.tokens == pack.useful_tokens
    own = int((in_slots[:-1] > 0).sum())
    assert in_slots[:own].tolist() == lengths[:own].tolist()
    # Every row holds one image, in order, and each token of the rest is found at its place.
    starts = np.concatenate([[0], np.cumsum(lengths[own:])])
    for row, (start, length) in enumerate(zip(starts, lengths[own:], strict=False)):
        assert pad[row, :length].tolist() == list(range(start, start + length))
        assert (pad[row, length:] == -1).all()
    assert pad.reshape(-1)[unpad].tolist() == list(range(in_slots[-1]))

    rows = layout.restored(layout.pack.patches.astype(np.float32), 1)
    assert np.array_equal(rows, pack.patches)
    numbers = np.array([layout.pack.patches[end - 1, 0] for end in layout.pack.offsets[1:]])
    assert layout.restored(numbers, 0).tolist() == list(range(len(grids)))


def test_long_images_take_the_slots_and_short_ones_the_rows() -> None:
    assert slots_used(np.array([1024, 720, 528, 256]), 4) == 4
    assert slots_used(np.array([9] * 28), 4) == 0
    assert slots_used(np.array([1024, *[9] * 20]), 4) == 1
