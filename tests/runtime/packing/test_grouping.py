"""Packs of prepared images: they stay within the budget, keep frames together, and divide evenly where possible."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.packing.grouping import PackMaker
from naflex_deploy.runtime.packing.prepared import Prepared
from naflex_deploy.runtime.results.result import Result


def frame(number: int, *lengths: int) -> list[Prepared]:
    """The images that a frame became, of so many patches each."""
    result = Result(number, 0, f"image {number}", (1, 1))
    return [Prepared(result, Patches(np.zeros((n, 3), np.uint8), (1, n))) for n in lengths]


@st.composite
def problems(draw: st.DrawFn) -> tuple[PackMaker, list[list[Prepared]]]:
    prefix = draw(st.integers(0, 3))
    tokens = draw(st.integers(prefix + 1, 120))
    maker = PackMaker(tokens, draw(st.integers(1, 9)), prefix)
    longest = max(1, (tokens - prefix) // draw(st.sampled_from([1, 4, 20])))
    lengths = st.lists(st.integers(1, longest), min_size=1, max_size=6)
    return maker, [frame(number, *draw(lengths)) for number in range(draw(st.integers(0, 9)))]


@given(problems())
def test_packs_hold_every_image_within_their_room_and_frames_together(
    problem: tuple[PackMaker, list[list[Prepared]]],
) -> None:
    maker, frames = problem
    packs = maker.packs([image for own in frames for image in own])
    place = {id(image): number for number, pack in enumerate(packs) for image in pack}
    assert sorted(place) == sorted(id(image) for own in frames for image in own)
    assert sum(map(len, packs)) == len(place)
    for pack in packs:
        assert len(pack) <= maker.images
        assert maker.pack(pack).tokens == maker.taken(pack) <= maker.tokens
    for own in frames:
        if maker.taken(own) <= maker.tokens and len(own) <= maker.images:
            assert len({place[id(image)] for image in own}) == 1
    assert [maker.taken(pack) for pack in packs] == sorted(map(maker.taken, packs), reverse=True)


@given(problems(), st.integers(2, 4))
def test_even_packs_are_as_many_for_each_worker(problem: tuple[PackMaker, list[list[Prepared]]], workers: int) -> None:
    maker, frames = problem
    images = [image for own in frames for image in own]
    packs = maker.even_packs(images, workers)
    if packs is None:
        return
    assert len(packs) % workers == 0
    assert sorted(id(image) for pack in packs for image in pack) == sorted(map(id, images))
    for pack in packs:
        assert 0 < len(pack) <= maker.images
        assert 0 < maker.taken(pack) <= maker.tokens


def test_equal_images_divide_and_one_image_does_not() -> None:
    maker = PackMaker(100, 10)
    images = [image for number in range(8) for image in frame(number, 20)]
    assert [len(pack) for pack in maker.even_packs(images, 2) or []] == [4, 4]
    assert maker.even_packs(images[:1], 2) is None
    assert maker.even_packs([*images[:2], *frame(9, 90)], 2) is None
