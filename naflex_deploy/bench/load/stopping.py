"""How long to measure: until the figures are narrow enough, within bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from naflex_deploy.bench.compare.statistics import quantile_interval

TAIL = 3
"""The interval of p99 may be this many times as wide as that of the median, in shares of each."""


@dataclass(frozen=True)
class Stopping:
    """When samples are enough.

    Attributes:
        width: Of the interval of the median, as a share of it.
        floor: Seconds to measure at least.
        cap: Seconds to measure at most.
        tail: Whether p99 has to be narrow, too.
    """

    width: float = 0.05
    floor: float = 1.0
    cap: float = 10.0
    tail: bool = True

    def enough(self, samples: Sequence[float], seconds: float) -> bool:
        """Whether to stop after this many seconds with these samples, in the order they were taken."""
        if seconds >= self.cap:
            return True
        return seconds >= self.floor and self.narrow(samples)

    def narrow(self, samples: Sequence[float]) -> bool:
        """Whether the intervals are narrow enough."""
        widths = [(0.5, self.width), *([(0.99, TAIL * self.width)] if self.tail else [])]
        for q, width in widths:
            interval = quantile_interval(samples, q)
            if interval is None or interval.width > width:
                return False
        return True


class Checks:
    """Asks a `Stopping` seldom enough that asking costs nothing: after a tenth more samples, or at the cap."""

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping
        self._next = 8

    def enough(self, samples: Sequence[float], seconds: float) -> bool:
        """See `Stopping.enough`."""
        if len(samples) < self._next:
            return seconds >= self._stopping.cap
        self._next = math.ceil(1.1 * len(samples))
        return self._stopping.enough(samples, seconds)
