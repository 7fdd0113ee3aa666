"""Derives the range that 8 bits cover from a histogram: all observed values, or fewer if that loses less.

``minmax``      all observed values
``percentile``  all but the outermost 0.01 % of the values
``mse``         the range with the least squared error
``entropy``     the range whose quantised histogram diverges least from the observed one (Kullback-Leibler), after
                Migacz, "8-bit inference with TensorRT", GTC 2017
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from naflex_deploy.compiler.quantize.observation import BINS, Float64, Int64, SiteObservation
from naflex_deploy.core.profile import Method

KEPT = 0.9999
"""Share of the values that ``percentile`` keeps."""

FRACTIONS = 2.0 ** -np.arange(0, 10, 0.125)
"""Fractions of the largest value that ``mse`` tries."""

LEVELS = 256
"""Number of levels of 8 bits."""

ENTROPY_BINS = np.unique(np.round(np.geomspace(LEVELS // 2, BINS // 2, 49)).astype(int))
"""Numbers of bins on either side of zero that ``entropy`` tries, starting with one bin per level."""

SMOOTHING = 1e-10
"""Probability assumed for bins that are empty in the quantised histogram."""


def asymmetric(seen: SiteObservation, method: Method) -> tuple[float, float]:
    """The range for unsigned integers with a zero point, which always includes zero.

    Returns:
        (low, high) with low ≤ 0 ≤ high, inside the observed range extended to zero.
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    match method:
        case "minmax":
            return low, high
        case "percentile":
            outside = (1 - KEPT) / 2
            return max(low, min(0.0, _quantile(seen, outside))), min(high, max(0.0, _quantile(seen, 1 - outside)))
        case "entropy":
            threshold = _entropy_threshold(seen.counts, seen.limit)
            return max(low, -threshold), min(high, threshold)
        case "mse":
            return _least_squares(seen, low, high)


def symmetric(seen: SiteObservation, method: Method) -> float:
    """The largest magnitude that signed integers around zero cover, at most the largest observed."""
    match method:
        case "minmax":
            return seen.amax
        case "percentile":
            half = BINS // 2
            magnitudes = seen.counts[half:] + seen.counts[:half][::-1]
            return min(seen.amax, _quantile_of(magnitudes, np.linspace(0, seen.limit, half + 1), KEPT))
        case "entropy":
            return min(seen.amax, _entropy_threshold(seen.counts, seen.limit))
        case "mse":
            return _best(seen.amax, lambda tried: squared_error(seen, -tried, tried, LEVELS - 2))


def squared_error(seen: SiteObservation, low: float, high: float, steps: int = LEVELS - 1) -> float:
    """Mean squared error of rounding to ``steps`` equal steps between ``low`` and ``high``, where zero is a level.

    Values are assumed to be spread evenly inside their bin, and the error is integrated exactly: with d = x - k·Δ to
    the nearest level k, ∫ d² over k whole steps from zero is k·Δ³/12, over the rest d³/3, and beyond the last level c
    it is (x - c)³/3.
    """
    step = (high - low) / steps
    if step <= 0:
        return float("inf")
    below = round(-low / step)
    (used,) = np.nonzero(seen.counts)
    width = 2 * seen.limit / BINS

    def integral(x: Float64) -> Float64:
        inside = np.clip(x, -below * step, (steps - below) * step)
        levels = np.round(inside / step)
        rest, beyond = inside - levels * step, x - inside
        # Cubes are written as products: numpy computes ``** 3`` by pow, which takes ten times as long.
        total: Float64 = levels * step**3 / 12 + rest * rest * rest / 3 + beyond * beyond * beyond / 3
        return total

    counts = seen.counts[used]
    lower = seen.edges[used]
    return float((counts * (integral(lower + width) - integral(lower))).sum() / width / counts.sum())


def _least_squares(seen: SiteObservation, low: float, high: float) -> tuple[float, float]:
    """Shrink both ends together, then each one separately, twice."""
    both = _best(1.0, lambda tried: squared_error(seen, tried * low, tried * high))
    low, high = both * low, both * high
    for _ in range(2):
        high = _best(high, partial(squared_error, seen, low))
        low = _best(low, partial(squared_error, seen, high=high))
    return low, high


def _best(greatest: float, error: Callable[[float], float]) -> float:
    return min((greatest * float(fraction) for fraction in FRACTIONS), key=error)


def _quantile(seen: SiteObservation, share: float) -> float:
    return _quantile_of(seen.counts, seen.edges, share)


def _quantile_of(counts: Int64, edges: Float64, share: float) -> float:
    """The value below which a share of the values lies, assuming that they are spread evenly inside their bin."""
    reached = np.concatenate([[0], np.cumsum(counts)])
    return float(np.interp(share * reached[-1], reached, edges))


def _entropy_threshold(counts: Int64, limit: float) -> float:
    best = min(ENTROPY_BINS, key=lambda bins: divergence(counts, int(bins)))
    return float(2 * limit / BINS * best)


def divergence(counts: Int64, bins: int) -> float:
    """Divergence of a histogram clipped to ``bins`` bins on either side of zero from the same in `LEVELS` levels.

    The values of a level are spread evenly over those of its bins that are not empty.
    """
    middle = len(counts) // 2
    inside = counts[middle - bins : middle + bins].astype(np.float64)
    level = np.arange(2 * bins) * LEVELS // (2 * bins)
    held = inside > 0
    share = np.bincount(level, inside, LEVELS) / np.maximum(np.bincount(level, held, LEVELS), 1)
    quantized = np.where(held, share[level], 0.0)
    clipped = inside.copy()
    clipped[0] += counts[: middle - bins].sum()
    clipped[-1] += counts[middle + bins :].sum()
    p = clipped / clipped.sum()
    q = np.maximum(quantized / max(quantized.sum(), 1.0), SMOOTHING)
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())
