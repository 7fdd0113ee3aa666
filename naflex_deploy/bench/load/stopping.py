"""Decides how long to measure: until the intervals are narrow enough, within bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from naflex_deploy.bench.compare.statistics import quantile_interval

TAIL = 3
"""The relative width of the interval of p99 may be this many times that of the median."""


@dataclass(frozen=True)
class Stopping:
    """The rule that decides when there are enough samples.

    Attributes:
        width: Relative width of the interval of the median at which to stop.
        floor: Shortest time to measure, in seconds.
        cap: Longest time to measure, in seconds.
        tail: Whether the interval of p99 has to be narrow, too.
    """

    width: float = 0.05
    floor: float = 1.0
    cap: float = 10.0
    tail: bool = True

    def enough(self, samples: Sequence[float], seconds: float) -> bool:
        """Whether to stop after this many seconds with these samples, in the order in which they were taken."""
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
    """Checks a `Stopping` only when samples have grown by a tenth, or at the cap, so that checks cost little."""

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping
        self._next = 8

    def enough(self, samples: Sequence[float], seconds: float) -> bool:
        """See `Stopping.enough`."""
        if len(samples) < self._next:
            return seconds >= self._stopping.cap
        self._next = math.ceil(1.1 * len(samples))
        return self._stopping.enough(samples, seconds)
