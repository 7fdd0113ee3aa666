"""Histograms equal numpy's, whatever the order of the values and however they were divided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from naflex_deploy.compiler.quantize.observation import BINS, SiteObservation

VALUES = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-(2.0**40), 2.0**40, width=32).map(lambda value: value if abs(value) > 2.0**-40 else 0.0),
)


def assert_same(found: SiteObservation, wanted: SiteObservation) -> None:
    assert found.limit == wanted.limit
    for name in ("counts", "channel_low", "channel_high"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), strict=True)


@settings(deadline=None)
@given(VALUES)
def test_it_is_the_histogram_that_numpy_makes(values: np.ndarray) -> None:
    seen = SiteObservation.of(values)
    magnitude = float(np.abs(values).max())
    assert seen.limit / 2 <= magnitude < seen.limit or magnitude == 0
    np.testing.assert_array_equal(seen.counts, np.histogram(values, BINS, (-seen.limit, seen.limit))[0])
    assert (seen.low, seen.high, seen.amax) == (values.min(), values.max(), magnitude)


@settings(deadline=None)
@given(VALUES, st.data())
def test_neither_order_nor_division_matters(values: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(values))))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(values) - 1)))) if len(values) > 1 else [])
    parts = [SiteObservation.of(part) for part in np.split(values[order], cuts)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    assert_same(merged, SiteObservation.of(values))


def test_a_range_grows_over_many_doublings() -> None:
    rng = np.random.default_rng(0)
    parts = [(10.0**k * rng.standard_normal((400, 3))).astype(np.float32) for k in range(-3, 4)]
    merged = SiteObservation.of(parts[0])
    for part in parts[1:]:
        merged = merged.merged(SiteObservation.of(part))
    assert_same(merged, SiteObservation.of(np.concatenate(parts)))
    assert merged.counts.sum() == 7 * 1200


def test_more_values_than_a_block_holds() -> None:
    values = np.random.default_rng(0).standard_normal((300_000, 2)).astype(np.float32)
    seen = SiteObservation.of(values)
    np.testing.assert_array_equal(seen.counts, np.histogram(values, BINS, (-seen.limit, seen.limit))[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_no_range_holds_is_refused(bad: float) -> None:
    values = np.ones((3, 2), np.float32)
    values[1, 1] = bad
    with pytest.raises(FloatingPointError):
        SiteObservation.of(values)
