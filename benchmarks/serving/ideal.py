"""An ideal first-in, first-out queue that forms packs at no cost, which no scheduler of that order can beat."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence


def simulate(
    arrivals: Sequence[float],
    tokens: Sequence[int],
    *,
    budget: int,
    max_images: int,
    service: Callable[[list[int]], float],
    engines: int = 1,
) -> list[float]:
    """Seconds that each image waits for its run to start.

    Batching is continuous: whenever an engine is free, it takes the waiting images, in order, up to a full pack.

    Args:
        arrivals: Ascending, in seconds.
        tokens: Of each image.
        service: Seconds of a pack of images of so many tokens.
        engines: That run packs side by side.
    """
    free = [0.0] * engines
    waits: list[float] = []
    while len(waits) < len(arrivals):
        first = len(waits)
        start = max(heapq.heappop(free), arrivals[first])
        end, room = first, budget
        while end < len(arrivals) and arrivals[end] <= start and end - first < max_images and tokens[end] <= room:
            room -= tokens[end]
            end += 1
        waits += [start - arrivals[index] for index in range(first, end)]
        heapq.heappush(free, start + service(list(tokens[first:end])))
    return waits
