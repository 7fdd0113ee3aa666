"""Latencies as they are reported: quantiles with intervals, each only if there are enough samples for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.compare.statistics import Interval, quantile_interval

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Latency:
    """The latency of requests, in seconds.

    Attributes:
        count: Number of requests.
        quantiles: Quantiles by their names in `QUANTILES`; ``None`` for one with too few samples.
        distribution: Latencies in rising order, between which lie equal shares of the requests: all of them, or each
            hundredth where there are more than 100.
        most: The longest latency; 0 if there are no requests.
    """

    count: int
    quantiles: dict[str, Interval | None]
    distribution: tuple[float, ...]
    most: float

    @property
    def median(self) -> Interval | None:
        return self.quantiles["p50"]


def latency_of(seconds: npt.NDArray[np.float64]) -> Latency:
    """Summarise [N] latencies in seconds, in the order in which they were measured."""
    quantiles = {name: quantile_interval(seconds, q) for name, q in QUANTILES.items()}
    kept = min(len(seconds), 100)  # in whole numbers, as 0.07 * 100 is more than 7
    places = [-(-number * len(seconds) // kept) - 1 for number in range(1, kept + 1)]
    found = np.sort(seconds)[places] if kept else np.array([])
    return Latency(len(seconds), quantiles, tuple(found.tolist()), float(seconds.max(initial=0.0)))
