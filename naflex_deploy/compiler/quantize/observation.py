"""What was seen of one activation: a histogram whose range grows, and the range of every channel.

Bins are a power of two wide and the histogram's limit is one, so that doubling the limit merges pairs of bins and
moves no value across an edge: what is observed depends neither on the order of packs nor on which images shared one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

BINS = 2**14
"""Over both signs. Outliers of 1000 times the bulk's deviation leave some 16 bins for that deviation."""

LEAST_LIMIT = 2.0**-100
"""Limit where all values are zero."""

BLOCK = 2**18
"""Values sorted into bins at once: what fits a cache."""


@dataclass(frozen=True, eq=False)
class SiteObservation:
    """What was seen at one site, over the tokens of all images.

    Attributes:
        limit: A power of two above every magnitude.
        counts: [`BINS`] int64, the histogram over [-limit, limit); bins are closed below.
        channel_low, channel_high: [C] float32, the least and the greatest value of each channel.
    """

    limit: float
    counts: Int64
    channel_low: Float32
    channel_high: Float32

    @classmethod
    def of(cls, values: Float32) -> SiteObservation:
        """Observe an activation.

        Args:
            values: [N, C] with N at least 1.

        Raises:
            FloatingPointError: One is NaN or infinite.
        """
        low, high = values.min(0), values.max(0)
        if not np.isfinite([low, high]).all():
            raise FloatingPointError("NaN or infinity")
        _, exponent = np.frexp(max(-float(low.min()), float(high.max())))
        limit = max(2.0 ** int(exponent), LEAST_LIMIT)
        return cls(limit, _histogram(values.reshape(-1), limit), low, high)

    def merged(self, other: SiteObservation) -> SiteObservation:
        """Both observations in one."""
        limit = max(self.limit, other.limit)
        return SiteObservation(
            limit,
            _grown(self, limit) + _grown(other, limit),
            np.minimum(self.channel_low, other.channel_low),
            np.maximum(self.channel_high, other.channel_high),
        )

    @property
    def low(self) -> float:
        """The least value."""
        return float(self.channel_low.min())

    @property
    def high(self) -> float:
        """The greatest value."""
        return float(self.channel_high.max())

    @property
    def amax(self) -> float:
        """The largest magnitude."""
        return max(0.0, -self.low, self.high)

    @property
    def edges(self) -> Float64:
        """[`BINS` + 1] between which the bins lie."""
        return np.linspace(-self.limit, self.limit, BINS + 1)


def _histogram(values: Float32, limit: float) -> Int64:
    # Exact: the factor is a power of two.
    scale = np.float32(BINS / 2 / limit)
    counts = np.zeros(BINS, np.int64)
    for start in range(0, len(values), BLOCK):
        places = np.floor(values[start : start + BLOCK] * scale).astype(np.int64)
        counts += np.bincount(places + BINS // 2, minlength=BINS)
    return counts


def _grown(observation: SiteObservation, limit: float) -> Int64:
    counts, reached = observation.counts, observation.limit
    while reached < limit:
        pairs = counts.reshape(-1, 2).sum(1)
        counts = np.zeros(BINS, np.int64)
        counts[BINS // 4 : -BINS // 4] = pairs
        reached *= 2
    return counts
