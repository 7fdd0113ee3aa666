from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.runtime.crew import UNEVEN, ahead, balanced


def test_ahead_keeps_the_order_and_begins_no_more_than_its_depth() -> None:
    begun = []
    with ThreadPoolExecutor(3) as pool:
        results = ahead(pool, lambda item: begun.append(item) or item * 2, itertools.count(), depth=4)
        for expected in range(50):
            assert next(results) == (expected, expected * 2)
            assert len(begun) <= expected + 1 + 4 + 1


def test_ahead_works_while_the_taker_waits() -> None:
    both = threading.Barrier(2, timeout=10)
    with ThreadPoolExecutor(2) as pool:
        assert [result for _, result in ahead(pool, lambda _: both.wait() >= 0, range(4), depth=2)] == [True] * 4


@given(
    lengths=st.lists(st.integers(1, 100), max_size=60),
    bins=st.integers(1, 8),
    room=st.integers(1, 500),
    most=st.integers(1, 20),
)
def test_balanced_bins_hold_everything_within_their_limits(lengths: list[int], bins: int, room: int, most: int) -> None:
    found = balanced(lengths, bins, room, most)
    if found is None:
        return
    assert len(found) == bins
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in one) for one in found]
    assert max(loads) <= min(room, UNEVEN * sum(lengths) / bins)
    assert max(map(len, found)) <= most


def test_equal_images_are_divided_where_they_divide() -> None:
    assert sorted(map(len, balanced([36] * 28, 4, 1024, 64) or [])) == [7] * 4
    assert balanced([256] * 3, 2, 1024, 64) is None
    assert balanced([1024], 2, 1024, 64) is None
