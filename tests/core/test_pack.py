"""Every view of a pack, against a loop that lays out tokens one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.core.pack import Pack, Patches, Role

VALUES = 4
GRIDS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6)
SMALL = st.integers(0, 3)


# The other roles depend on an engine's rows as well.
VIEWS = [role for role in Role if role not in (Role.PAD_INDEX, Role.UNPAD_INDEX, Role.TOKEN_OFFSET, Role.SLOT_LENGTHS)]


@dataclass
class Token:
    patch: list[float]
    coords: tuple[int, int]
    segment: int
    kind: int


def images(grids: list[tuple[int, int]], dtype: type = np.uint8) -> list[Patches]:
    rng = np.random.default_rng(0)
    return [Patches(rng.integers(1, 256, (h * w, VALUES)).astype(dtype), (h, w)) for h, w in grids]


def lay(members: list[Patches], prefix: int, tail: int, slots: int) -> list[Token]:
    """The tokens of a pack, written from their definition."""
    zeros = [0.0] * VALUES
    tokens = []
    for segment, image in enumerate(members):
        tokens += [Token(zeros, (0, 0), segment, kind + 1) for kind in range(prefix)]
        height, width = image.grid_hw
        for row in range(height):
            for column in range(width):
                patch = image.pixels[row * width + column].tolist()
                tokens.append(Token(patch, (row, column), segment, 0))
    return tokens + [Token(zeros, (0, 0), slots, 0)] * tail


@settings(deadline=None)
@given(grids=GRIDS, prefix=SMALL, tail=SMALL, unused=SMALL, dtype=st.sampled_from([np.uint8, np.float32]))
def test_views_are_what_a_loop_over_tokens_gives(grids, prefix, tail, unused, dtype) -> None:
    members = images(grids, dtype)
    slots = len(grids) + unused
    expected = lay(members, prefix, tail, slots)
    pack = Pack.of(members, prefix=prefix, tokens=len(expected), slots=slots)

    lengths = [h * w + prefix for h, w in grids]
    starts = [sum(lengths[:index]) for index in range(len(grids))]
    useful = sum(lengths)
    assert (pack.images, pack.tokens, pack.useful_tokens) == (len(grids), useful + tail, useful)
    assert pack.view(Role.PATCHES).tolist() == [token.patch for token in expected]
    assert pack.view(Role.COORDS).tolist() == [list(token.coords) for token in expected]
    assert pack.view(Role.SEGMENT_IDS).tolist() == [token.segment for token in expected]
    assert pack.view(Role.TOKEN_KIND).tolist() == [token.kind for token in expected]
    assert pack.view(Role.GRID_HW).tolist() == [list(grid) for grid in grids] + [[1, 1]] * (unused + 1)
    assert pack.view(Role.CU_SEQLENS).tolist() == [*starts, useful] + [useful] * unused
    assert pack.view(Role.PATCHES).dtype == dtype
    for role in VIEWS:
        assert pack.view(role).flags.c_contiguous
        if role is not Role.PATCHES:
            assert pack.view(role).dtype == np.int32


@settings(deadline=None)
@given(grids=GRIDS, prefix=SMALL, tail=SMALL)
def test_split_returns_each_image_its_own_patches(grids, prefix, tail) -> None:
    members = images(grids)
    pack = Pack.of(members, prefix=prefix, tokens=sum(h * w + prefix for h, w in grids) + tail)
    parts = pack.split(pack.patches)
    assert [part.shape for part in parts] == [(h, w, VALUES) for h, w in grids]
    for part, image in zip(parts, members, strict=True):
        assert np.array_equal(part.reshape(-1, VALUES), image.pixels)


def test_without_sizes_given_a_pack_has_neither_tail_nor_unused_slots() -> None:
    pack = Pack.of(images([(2, 3), (1, 1)]))
    assert (pack.tokens, pack.slots) == (7, 2)
    assert pack.view(Role.GRID_HW).tolist() == [[2, 3], [1, 1], [1, 1]]


@pytest.mark.parametrize(("rows", "grid"), [(5, (2, 3)), (0, (0, 3)), (3, (-1, -3))])
def test_patches_refuse_a_grid_that_is_not_theirs(rows: int, grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="grid needs"):
        Patches(np.zeros((rows, VALUES), np.uint8), grid)


def test_a_pack_refuses_more_tokens_than_it_has_rows() -> None:
    with pytest.raises(ValueError, match="6 tokens do not fit into 5 rows"):
        Pack.of(images([(2, 3)]), tokens=5)


def test_a_pack_refuses_offsets_that_contradict_its_grids() -> None:
    with pytest.raises(ValueError, match="do not follow from the grids"):
        Pack(np.zeros((6, VALUES), np.uint8), np.array([[2, 3]], np.int32), np.array([0, 5]))
