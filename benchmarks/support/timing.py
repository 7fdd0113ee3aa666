"""Timing that is robust on a noisy machine: contenders take turns, and only ratios within a run are quoted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """The times of a call over several rounds.

    Attributes:
        rounds: Seconds in each round.
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
        """Standard deviation relative to the median; 0 for a single round."""
        return statistics.stdev(self.rounds) / self.median if len(self.rounds) > 1 else 0.0


def interleaved(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time calls in turns for a number of rounds, after an uncounted one.

    Args:
        calls: The calls by name.
        rounds: Number of rounds.
        clock: Clock that measures seconds; for single-threaded work on a shared machine, use ``time.process_time``.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if number:
                found[name].append(clock() - start)
    return {name: Timing(tuple(times)) for name, times in found.items()}
