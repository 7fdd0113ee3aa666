"""Timing that a noisy machine cannot tilt: contenders take turns, and only ratios within a run are quoted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds a call, over rounds.

    Attributes:
        rounds: Each round's time.
    """

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def spread(self) -> float:
        """Standard deviation over the median; 0 of one round."""
        return statistics.stdev(self.rounds) / self.median if len(self.rounds) > 1 else 0.0


def interleaved(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time calls in turn, ``rounds`` times, after one round that does not count.

    Args:
        clock: Of one thread's work, ``time.process_time`` says more where other programs share the machine.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if number:
                found[name].append(clock() - start)
    return {name: Timing(tuple(times)) for name, times in found.items()}
