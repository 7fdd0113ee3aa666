"""Observes one activation: a histogram whose range grows, and the range of every channel.

Both the width of a bin and the limit of the histogram are powers of two, so that doubling the limit merges pairs of
bins without moving a value across an edge. The observation thus depends neither on the order of packs nor on which
images shared one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

BINS = 2**14
"""Number of bins over both signs. With outliers at 1000 standard deviations, about 16 bins cover the deviation."""

LEAST_LIMIT = 2.0**-100
"""Limit of the histogram if all values are zero."""

BLOCK = 2**18
"""Number of values sorted into bins at once, chosen to fit a cache."""


@dataclass(frozen=True, eq=False)
class SiteObservation:
    """The observation of one site, over the tokens of all images.

    Attributes:
        limit: A power of two above every magnitude.
        counts: Histogram over [-limit, limit), [`BINS`] int64, whose bins include their lower edge.
        channel_low, channel_high: Smallest and largest value of each channel, [C] float32.
    """

    limit: float
    counts: Int64
    channel_low: Float32
    channel_high: Float32

    @classmethod
    def of(cls, values: Float32) -> SiteObservation:
        """Observe an activation.

        Args:
            values: The activation, [N, C] with N at least 1.

        Raises:
            FloatingPointError: A value is NaN or infinite.
        """
        low, high = values.min(0), values.max(0)
        if not np.isfinite([low, high]).all():
            raise FloatingPointError("NaN or infinity")
        _, exponent = np.frexp(max(-float(low.min()), float(high.max())))
        limit = max(2.0 ** int(exponent), LEAST_LIMIT)
        return cls(limit, _histogram(values.reshape(-1), limit), low, high)

    def merged(self, other: SiteObservation) -> SiteObservation:
        """Merge two observations into one."""
        limit = max(self.limit, other.limit)
        return SiteObservation(
            limit,
            _grown(self, limit) + _grown(other, limit),
            np.minimum(self.channel_low, other.channel_low),
            np.maximum(self.channel_high, other.channel_high),
        )

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.channel_low.min())

    @property
    def high(self) -> float:
        """The largest value."""
        return float(self.channel_high.max())

    @property
    def amax(self) -> float:
        """The largest magnitude."""
        return max(0.0, -self.low, self.high)

    @property
    def edges(self) -> Float64:
        """The edges of the bins, [`BINS` + 1]."""
        return np.linspace(-self.limit, self.limit, BINS + 1)


def _histogram(values: Float32, limit: float) -> Int64:
    # The product is exact, because the factor is a power of two.
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
