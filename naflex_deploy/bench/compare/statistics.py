"""Distribution-free confidence intervals, which are refused when there are too few samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

CONFIDENCE = 0.95
"""Confidence of intervals of quantiles."""

RATIO_CONFIDENCE = 0.99
"""Confidence of intervals of ratios: equal contenders differ in one comparison out of 100 instead of one out of 20."""

BLOCKS = 32
"""Number of blocks of consecutive samples, whose means show how much samples depend on their neighbours."""


@dataclass(frozen=True)
class Interval:
    """An estimate, and the interval that contains the true value with the stated confidence."""

    estimate: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Width relative to the estimate; infinite if the estimate is 0."""
        return (self.high - self.low) / self.estimate if self.estimate else math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit."""
        return Interval(factor * self.estimate, factor * self.low, factor * self.high)

    def inverse(self, numerator: float = 1.0) -> Interval:
        """The interval of ``numerator / value``."""
        return Interval(numerator / self.estimate, numerator / self.high, numerator / self.low)


def least_samples(q: float, confidence: float = CONFIDENCE) -> int:
    """Fewest independent samples from which an interval of a quantile can be derived.

    For p99 at 95 % it is 368: the chance that no sample is above the quantile, 0.99^n, has to be at most 2.5 %.
    """
    return math.ceil(math.log((1 - confidence) / 2) / math.log(max(q, 1 - q)))


def quantile_interval(samples: npt.ArrayLike, q: float, confidence: float = CONFIDENCE) -> Interval | None:
    """A quantile with its order-statistic interval (Conover, "Practical Nonparametric Statistics", 3.2).

    Samples that depend on their neighbours, as latencies in a queue do, count as fewer samples; see `inflation`.

    Args:
        samples: Samples in the order in which they were taken, [N].
        q: The quantile, from 0 to 1.
        confidence: Confidence of the interval.

    Returns:
        The interval; ``None`` if there are too few samples.
    """
    values = np.asarray(samples, np.float64)
    if len(values) < least_samples(q, confidence):
        return None
    estimate = float(np.quantile(values, q))
    count = int(len(values) / inflation(values <= estimate))
    if count < least_samples(q, confidence):
        return None
    below = _binomial_cdf(count, q)
    tail = (1 - confidence) / 2
    low = int(
        np.searchsorted(below, tail, side="right")
    )  # 1-based rank r with P(fewer than r samples lie below) <= tail
    high = int(np.searchsorted(below, 1 - tail)) + 1
    ordered = np.sort(values)
    first = math.floor((max(low, 1) - 1) / count * len(values))
    last = math.ceil(min(high, count) / count * len(values)) - 1
    return Interval(estimate, float(ordered[first]), float(ordered[last]))


def inflation(indicators: npt.NDArray[np.bool_]) -> float:
    """The factor, at least 1, by which dependence raises the variance of block means over that of independence."""
    blocks = min(BLOCKS, len(indicators) // 4)
    if blocks < 8:
        return 1.0
    size = len(indicators) // blocks
    means = indicators[: blocks * size].reshape(blocks, size).mean(axis=1)
    share = float(means.mean())
    alone = share * (1 - share) / size
    return max(1.0, float(means.var(ddof=1)) / alone) if alone else 1.0


def ratio_interval(ratios: npt.ArrayLike, confidence: float = RATIO_CONFIDENCE) -> Interval | None:
    """The Hodges-Lehmann centre of ratios, with Wilcoxon's exact signed-rank interval, on their logarithms.

    The only assumption is that ratios scatter symmetrically around their centre, as those of equal contenders that take
    turns do. A single outlier moves the result little (Hollander and Wolfe, "Nonparametric Statistical Methods",
    3.2-3.3).

    Args:
        ratios: Positive ratios, independent of each other, [N].
        confidence: Confidence of the interval.

    Returns:
        The interval; ``None`` if there are too few ratios (99 % needs 8).
    """
    logs = np.log(np.asarray(ratios, np.float64))
    count = len(logs)
    first, second = np.triu_indices(count)
    means = np.sort((logs[first] + logs[second]) / 2)
    ranks = np.ones(1)
    for rank in range(1, count + 1):
        ranks = (np.pad(ranks, (0, rank)) + np.pad(ranks, (rank, 0))) / 2
    cut = int(np.searchsorted(np.cumsum(ranks), (1 - confidence) / 2, side="right"))
    if cut < 1:
        return None
    return Interval(*(math.exp(value) for value in (float(np.median(means)), means[cut - 1], means[len(means) - cut])))


def _binomial_cdf(count: int, q: float) -> Samples:
    """P(at most k of ``count`` samples lie below the q-quantile), [count + 1]."""
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    k = np.arange(count + 1)
    log_mass = factorial[-1] - factorial - factorial[::-1] + k * math.log(q) + (count - k) * math.log1p(-q)
    return np.cumsum(np.exp(log_mass))
