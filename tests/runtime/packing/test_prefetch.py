from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

from naflex_deploy.runtime.packing.prefetch import prefetch


def test_ahead_keeps_the_order_and_begins_no_more_than_its_depth() -> None:
    begun = []
    with ThreadPoolExecutor(3) as pool:
        results = prefetch(pool, lambda item: begun.append(item) or item * 2, itertools.count(), depth=4)
        for expected in range(50):
            assert next(results) == (expected, expected * 2)
            assert len(begun) <= expected + 1 + 4 + 1


def test_ahead_works_while_the_taker_waits() -> None:
    both = threading.Barrier(2, timeout=10)
    with ThreadPoolExecutor(2) as pool:
        assert [result for _, result in prefetch(pool, lambda _: both.wait() >= 0, range(4), depth=2)] == [True] * 4
