"""Ranges, against the real rounding error of the values, and against the definitions written out."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from naflex_deploy.compiler.quantize import ranges
from naflex_deploy.compiler.quantize.observation import BINS, SiteObservation
from naflex_deploy.core.profile import Method

METHODS = get_args(Method)


def distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(30_000)
    outliers = normal.copy()
    outliers[::10_000] = [700, -90, 300]
    gated = normal * (normal > 0) * 3 - 0.17 * (normal < 0) * rng.random(len(normal))
    return {
        "normal": normal,
        "shifted": normal + 2,
        "Laplace": rng.laplace(size=30_000),
        "as after GELU": gated,
        "with outliers": outliers,
        "positive": np.abs(normal) + 0.5,
    }


SHAPES = {name: values.astype(np.float32).reshape(-1, 4) for name, values in distributions().items()}


def rounded(values: np.ndarray, low: float, high: float, steps: int) -> np.ndarray:
    """Round values to integer levels, one of which is zero."""
    scale = (high - low) / steps
    zero = round(-low / scale)
    return (np.clip(np.round(values.astype(np.float64) / scale) + zero, 0, steps) - zero) * scale


def loss(values: np.ndarray, low: float, high: float, steps: int) -> float:
    return float(np.square(rounded(values, low, high, steps) - values).mean())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_range_holds_zero_and_lies_inside_what_was_seen(name: str, method: Method) -> None:
    seen = SiteObservation.of(SHAPES[name])
    low, high = ranges.asymmetric(seen, method)
    assert min(seen.low, 0) <= low <= 0 <= high <= max(seen.high, 0)
    assert low < high
    assert 0 < ranges.symmetric(seen, method) <= seen.amax


@pytest.mark.parametrize("name", SHAPES)
def test_min_max_is_all_that_was_seen(name: str) -> None:
    values = SHAPES[name]
    seen = SiteObservation.of(values)
    assert ranges.asymmetric(seen, "minmax") == (min(values.min(), 0), max(values.max(), 0))
    assert ranges.symmetric(seen, "minmax") == np.abs(values).max()


@pytest.mark.parametrize("name", SHAPES)
def test_percentiles_are_those_of_the_values(name: str) -> None:
    values = SHAPES[name]
    seen = SiteObservation.of(values)
    width = 2 * seen.limit / BINS
    outside = (1 - ranges.KEPT) / 2
    ordered = np.sort(values.reshape(-1))

    def between(found: float, wanted: float, ordered: np.ndarray) -> bool:
        """Up to a bin, and one value more or less."""
        place = wanted * len(ordered)
        below, above = ordered[max(int(place) - 1, 0)], ordered[min(int(place) + 1, len(ordered) - 1)]
        return bool(below - width <= found <= above + width)

    low, high = ranges.asymmetric(seen, "percentile")
    assert between(low, outside, ordered) or low == 0
    assert between(high, 1 - outside, ordered)
    assert between(ranges.symmetric(seen, "percentile"), ranges.KEPT, np.sort(np.abs(ordered)))


@pytest.mark.parametrize("name", SHAPES)
def test_the_error_is_that_of_rounding_the_values(name: str) -> None:
    values = SHAPES[name]
    seen = SiteObservation.of(values)
    for part in (1, 0.5, 0.1, 0.01):
        low, high = part * min(seen.low, 0), part * seen.high
        assert ranges.squared_error(seen, low, high) == pytest.approx(loss(values, low, high, 255), rel=0.02)
        amax = part * seen.amax
        assert ranges.squared_error(seen, -amax, amax, 254) == pytest.approx(loss(values, -amax, amax, 254), rel=0.02)


@pytest.mark.parametrize("name", SHAPES)
def test_least_squares_finds_what_trying_every_range_finds(name: str) -> None:
    values = SHAPES[name]
    seen = SiteObservation.of(values)
    parts = 1.15 ** -np.arange(48)
    best = min(loss(values, -part * seen.amax, part * seen.amax, 254) for part in parts)
    amax = ranges.symmetric(seen, "mse")
    assert loss(values, -amax, amax, 254) <= 1.03 * best
    parts = parts[:24:2] if name != "with outliers" else parts[::4]
    best = min(loss(values, a * min(seen.low, 0), b * seen.high, 255) for a in parts for b in parts)
    assert loss(values, *ranges.asymmetric(seen, "mse"), 255) <= 1.03 * best


def test_least_squares_gives_outliers_up_where_that_loses_less() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((400_000, 1)).astype(np.float32)
    values[:2, 0] = 30, -30
    seen = SiteObservation.of(values)
    low, high = ranges.asymmetric(seen, "mse")
    assert max(-low, high) < 20
    assert loss(values, low, high, 255) < 0.6 * loss(values, seen.low, seen.high, 255)


def divergence(counts: list[int], bins: int, levels: int) -> float:
    """Kullback-Leibler divergence of the clipped from the quantised histogram, bin by bin as in the talk."""
    middle = len(counts) // 2
    inside = counts[middle - bins : middle + bins]
    reference = [float(count) for count in inside]
    reference[0] += sum(counts[: middle - bins])
    reference[-1] += sum(counts[middle + bins :])
    quantized = [0.0] * len(inside)
    for level in range(levels):
        members = [i for i in range(len(inside)) if i * levels // len(inside) == level]
        some = [i for i in members if inside[i]]
        for i in some:
            quantized[i] = sum(inside[i] for i in members) / len(some)
    total = 0.0
    for p, q in zip(reference, quantized, strict=True):
        if p:
            p, q = p / sum(reference), max(q / sum(quantized), ranges.SMOOTHING)
            total += p * np.log(p / q)
    return total


def test_entropy_is_by_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "LEVELS", 16)
    values = SHAPES["with outliers"].reshape(-1)
    counts = np.histogram(values, 128, (-8, 8))[0]
    counts[0] += 2
    for bins in (8, 9, 20, 37, 64):
        assert ranges.divergence(counts, bins) == pytest.approx(divergence(counts.tolist(), bins, 16), rel=1e-9)


def test_entropy_takes_the_threshold_that_diverges_least() -> None:
    seen = SiteObservation.of(SHAPES["Laplace"])
    width = 2 * seen.limit / BINS
    best = min(ranges.ENTROPY_BINS, key=lambda bins: ranges.divergence(seen.counts, int(bins)))
    assert ranges.symmetric(seen, "entropy") == pytest.approx(min(width * best, seen.amax))
    low, high = ranges.asymmetric(seen, "entropy")
    assert max(-low, high) == pytest.approx(min(width * best, seen.amax))
    assert 128 < best < BINS / 2  # It is at neither end of the range tried.


def test_an_activation_of_zeros_has_an_empty_range() -> None:
    seen = SiteObservation.of(np.zeros((5, 2), np.float32))
    for method in METHODS:
        assert ranges.asymmetric(seen, method) == (0, 0)
        assert ranges.symmetric(seen, method) == 0
