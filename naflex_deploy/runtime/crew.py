"""Threads that work ahead of whoever takes the results, as far as their memory is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

UNEVEN = 1.1
"""Bins are nearly equal up to this multiple of their mean. Beyond, waiting for the fullest would cost more than
spreading each pack over all cores."""


def ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[tuple[Item, Result]]:
    """Items and what became of them, in order, while the next ``depth`` items are worked on.

    Args:
        pool: Does the work.
        work: On one item.
        items: May be endless: taken one by one.
        depth: Items begun beyond the one that is waited for.
    """
    begun: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        begun.append((item, pool.submit(work, item)))
        if len(begun) > depth:
            first, future = begun.popleft()
            yield first, future.result()
    for first, future in begun:
        yield first, future.result()


def balanced(lengths: list[int], bins: int, room: int, most: int) -> list[list[int]] | None:
    """Indices in bins of nearly the same sum: the longest first, each to the emptiest bin.

    Args:
        lengths: Of each item.
        bins: How many.
        room: Greatest sum of a bin.
        most: Greatest number of items of a bin.

    Returns:
        None where a bin would overflow, or stay so empty that the bins are not nearly equal.
    """
    found: list[list[int]] = [[] for _ in range(bins)]
    loads = [0] * bins
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        emptiest = loads.index(min(loads))
        found[emptiest].append(index)
        loads[emptiest] += lengths[index]
    if max(loads) > min(room, UNEVEN * sum(loads) / bins) or max(map(len, found)) > most:
        return None
    return found
