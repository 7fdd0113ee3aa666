"""Intervals, against enumeration, and their coverage on samples whose true value is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from naflex_deploy.bench.compare.statistics import (
    Interval,
    inflation,
    least_samples,
    quantile_interval,
    ratio_interval,
)


def below(count: int, q: float, k: int) -> float:
    """P(at most k of ``count`` samples lie below the q-quantile)."""
    return sum(math.comb(count, i) * q**i * (1 - q) ** (count - i) for i in range(k + 1))


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
def test_least_samples_is_the_first_count_that_gives_an_interval(q):
    count = least_samples(q)
    values = np.random.default_rng(0).permutation(count).astype(float)
    assert quantile_interval(values, q) is not None
    assert quantile_interval(values[1:], q) is None
    assert q**count <= 0.025 < q ** (count - 1)


def test_p99_needs_368_samples():
    assert least_samples(0.99) == 368


@pytest.mark.parametrize(("count", "q"), [(20, 0.5), (60, 0.5), (100, 0.9), (130, 0.95)])
def test_ranks_are_those_of_the_binomial_distribution(count, q):
    orders = (np.random.default_rng(seed).permutation(count).astype(float) for seed in range(100))
    ranks = next(order for order in orders if inflation(order <= np.quantile(order, q)) == 1)
    found = quantile_interval(ranks, q)
    low, high = int(found.low) + 1, int(found.high) + 1
    assert below(count, q, low - 1) <= 0.025 < below(count, q, low) or low == 1
    assert below(count, q, high - 1) >= 0.975 > below(count, q, high - 2)


def test_an_interval_of_the_median_holds_it_as_often_as_it_says():
    random = np.random.default_rng(1)
    runs = [quantile_interval(random.lognormal(0, 1, 300), 0.5) for _ in range(600)]
    assert 0.93 <= np.mean([1.0 in run for run in runs]) <= 0.995


def test_an_interval_of_p99_holds_it_as_often_as_it_says():
    random = np.random.default_rng(2)
    truth = math.exp(2.3263478740408408)
    runs = [quantile_interval(random.lognormal(0, 1, 1200), 0.99) for _ in range(400)]
    assert np.mean([truth in run for run in runs if run]) >= 0.93


def test_dependent_samples_count_for_fewer():
    """A queue's latencies: an AR(1) process whose correlation with the next is 0.9."""
    random = np.random.default_rng(3)
    hits, naive = [], []
    for _ in range(300):
        noise = random.standard_normal(3000) * math.sqrt(1 - 0.9**2)
        values = np.empty(3000)
        values[0] = random.standard_normal()
        for i in range(1, 3000):
            values[i] = 0.9 * values[i - 1] + noise[i]
        hits.append(1.0 in quantile_interval(np.exp(values), 0.5))
        naive.append(1.0 in quantile_interval(np.exp(random.permutation(values)), 0.5))
    assert np.mean(hits) >= 0.92
    assert np.mean(naive) < 0.7, "the simulation is not dependent enough to tell the two apart"


def test_inflation_of_independent_samples_is_about_one():
    random = np.random.default_rng(4)
    found = [inflation(random.random(2000) < 0.5) for _ in range(200)]
    assert np.mean(found) < 1.3


@pytest.mark.parametrize("count", [8, 9, 11])
def test_ratio_interval_is_what_wilcoxon_does_not_refuse(count):
    """By enumeration of all signs: a shift is inside where the two-sided test at 1 % does not refuse it."""
    random = np.random.default_rng(count)
    logs = random.normal(0.1, 0.05, count)
    found = ratio_interval(np.exp(logs))
    ranks = np.arange(1, count + 1)
    sums = np.sort([np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=count)])

    def refused(shift: float) -> bool:
        order = np.argsort(np.abs(logs - shift))
        positive = float(ranks[(logs - shift)[order] > 0].sum())
        least = min(positive, ranks.sum() - positive)
        return np.mean(sums <= least) <= 0.005

    for edge, outwards in ((math.log(found.low), -1), (math.log(found.high), 1)):
        assert not refused(edge - outwards * 1e-9)
        assert refused(edge + outwards * 1e-9)
    assert found.estimate in found


def test_fewer_than_eight_ratios_give_no_interval():
    assert ratio_interval(np.full(7, 1.1)) is None
    assert ratio_interval(np.full(8, 1.1)) == Interval(*[pytest.approx(1.1)] * 3)


def test_one_wild_ratio_moves_the_estimate_little():
    ratios = np.exp(np.random.default_rng(5).normal(0, 0.01, 12))
    ratios[4] = 50.0
    assert ratio_interval(ratios).estimate == pytest.approx(1, abs=0.02)
    assert 1.0 in ratio_interval(ratios)


def test_units():
    interval = Interval(2.0, 1.0, 4.0)
    assert interval.scaled(10) == Interval(20.0, 10.0, 40.0)
    assert interval.inverse(8) == Interval(4.0, 2.0, 8.0)
    assert interval.width == 1.5
    assert Interval(0.0, 0.0, 1.0).width == math.inf
