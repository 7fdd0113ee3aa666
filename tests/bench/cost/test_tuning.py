"""Tuning keeps to its time, on a clock that only the machine under test moves."""

from __future__ import annotations

import pytest

from naflex_deploy.bench.compare.compare import Contender, Loaded, compare
from naflex_deploy.bench.cost.tuning import FEWEST, LOADS, MEASURED, images_in
from tests.bench.support import Clock


@pytest.mark.parametrize(("each", "workloads"), [(0.001, 2), (0.01, 2), (0.03, 2), (0.05, 2), (0.05, 1), (0.11, 1)])
@pytest.mark.parametrize("loading", [0.0, 0.3])
def test_the_gain_is_measured_in_the_time_that_is_left(each: float, loading: float, workloads: int) -> None:
    clock, seconds = Clock(), 20.0
    count = images_in(seconds - LOADS * loading, each, MEASURED, workloads)
    assert count >= FEWEST

    def load() -> Loaded:
        clock.sleep(loading)
        both = {"together": [lambda: clock.sleep(each * count)], "alone": [lambda: clock.sleep(each)] * count}
        return Loaded(dict(list(both.items())[:workloads]))

    sides = Contender("a", load), Contender("b", load)
    compare(*sides, width=0, seconds=(seconds - LOADS * loading) * 2 / 3, clock=clock)
    # Each engine also computes its results once, after being loaded, before the comparison.
    assert clock.now + 2 * loading + 2 * count * each < seconds * 1.1


def test_it_is_not_measured_without_time_for_it() -> None:
    assert images_in(5, 1.0, MEASURED, 1) == 0
    assert images_in(-5, 0.001, MEASURED, 1) == 0
    assert images_in(1000, 0.001, MEASURED, 2) == MEASURED
    assert images_in(1000, 0.001, 1, 2) == 1
