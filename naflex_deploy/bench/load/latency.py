"""Latencies as they are reported: quantiles with intervals, each only where there are enough samples for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.compare.statistics import Interval, quantile_interval

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Latency:
    """Of requests.

    Attributes:
        count: How many.
        quantiles: In seconds, by the names of `QUANTILES`; ``None`` where there are too few samples.
        most: The longest; 0 where there is none.
    """

    count: int
    quantiles: dict[str, Interval | None]
    most: float

    @property
    def median(self) -> Interval | None:
        return self.quantiles["p50"]


def latency_of(seconds: npt.NDArray[np.float64]) -> Latency:
    """Of [N] seconds, in the order they were taken."""
    quantiles = {name: quantile_interval(seconds, q) for name, q in QUANTILES.items()}
    return Latency(len(seconds), quantiles, float(seconds.max(initial=0.0)))
