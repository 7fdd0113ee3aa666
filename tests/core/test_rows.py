"""The places of a pack's tokens in rows, as engines take them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.core.rows import ROW_MULTIPLE, row_views, token_offsets


def pack(lengths: list[int], tail: int = 0, slots: int = 0) -> Pack:
    images = [Patches(np.zeros((n, 3), np.uint8), (1, n)) for n in lengths]
    return Pack.of(images, tokens=sum(lengths) + tail, slots=slots)


def test_token_offsets_are_those_of_onnx_runtimes_own_example() -> None:
    """Sequences of 1, 2 and 4 tokens; of the last, the tail is made."""
    assert token_offsets(pack([1, 2], tail=4)).reshape(-1).tolist() == [0, 4, 5, 8, 9, 10, 11, 1, 2, 3, 6, 7]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 40), st.integers(0, 3))
def test_token_offsets_place_every_token_once(lengths: list[int], tail: int, more: int) -> None:
    one = pack(lengths, tail, len(lengths) + more)
    offsets = token_offsets(one)
    assert offsets.shape == (len(lengths) + more + 1, max(*lengths, tail))
    assert sorted(offsets.reshape(-1)) == list(range(offsets.size))
    row, column = np.divmod(offsets.reshape(-1)[: one.tokens], offsets.shape[1])
    assert (row == one.segment_ids).all()
    starts = np.append(one.cu_seqlens, one.tokens)[:-1]
    assert (column == np.arange(one.tokens) - starts[row]).all()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(0, 20))
def test_rows_are_filled_and_as_long_as_the_longest_image(lengths: list[int], tail: int) -> None:
    one = pack(lengths, tail)
    views = row_views(one, (Role.PATCHES, Role.PAD_INDEX, Role.UNPAD_INDEX))
    pad, unpad = views[Role.PAD_INDEX], views[Role.UNPAD_INDEX]
    assert pad.shape[1] % ROW_MULTIPLE == 0
    assert 0 <= pad.shape[1] - max(lengths) < ROW_MULTIPLE
    assert (pad >= 0).any(1).all()
    assert (pad.reshape(-1)[unpad[: sum(lengths)]] == np.arange(sum(lengths))).all()
    assert row_views(one, (Role.PATCHES,)) == {}
