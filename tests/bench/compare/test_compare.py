"""Comparisons on simulated machines: noisy neighbours that come and go, bursts, and loads of different speed."""

from __future__ import annotations

import numpy as np
import pytest

from naflex_deploy.bench.compare.compare import Contender, Loaded, compare, gate, least_cosine, take_turns
from naflex_deploy.core.errors import BenchmarkError
from tests.bench.support import Clock


class Machine:
    """A machine that others use, too.

    Its speed wanders, each step depending on the one before; one request in two hundred is interrupted; and where
    a load lies in memory makes it up to two percent slower for good.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.clock = Clock()
        self._slow = 0.0

    def contender(self, name: str, costs: np.ndarray, placement: float = 0.02) -> Contender:
        def load() -> Loaded:
            factor = 1 + placement * self.random.random()
            return Loaded({"each": [lambda cost=cost: self.work(cost * factor) for cost in costs]})

        return Contender(name, load)

    def work(self, seconds: float) -> None:
        self._slow = 0.98 * self._slow + 0.2 * self.random.standard_normal() * 0.2
        busy = float(np.exp(self._slow + 0.05 * self.random.standard_normal()))
        burst = 10 * seconds if self.random.random() < 0.005 else 0.0
        self.clock.now += seconds * busy + burst


COSTS = np.array([0.02, 0.05, 0.03, 0.08, 0.04])


def intervals(count: int, speed: float, seconds: float = 30) -> list:
    found = []
    for seed in range(count):
        machine = Machine(seed)
        first, second = machine.contender("a", COSTS), machine.contender("b", COSTS * speed)
        (ratio,) = compare(first, second, width=0.02, seconds=seconds, clock=machine.clock)
        found.append(ratio.speed)
    return found


def test_a_bundle_is_as_fast_as_itself():
    """At 99 %, 19 of 20 comparisons or more hold 1.0; here of many more."""
    held = [1.0 in interval for interval in intervals(60, 1.0)]
    assert np.mean(held) >= 0.95


def test_a_difference_of_ten_percent_is_found():
    found = intervals(15, 1.1, 120)
    assert np.mean([1.1 in interval for interval in found]) >= 0.95
    assert all(interval.low > 1.0 for interval in found)


def test_the_simulation_defeats_one_load_without_turns():
    """The same times without sittings and turns would tell equal things apart: the simulation is no easy one."""
    wrong = 0
    for seed in range(20):
        machine = Machine(seed)
        sides = [machine.contender(name, COSTS).load().workloads["each"] for name in "ab"]
        times = []
        for calls in sides:
            rounds = []
            for _ in range(40):
                begin = machine.clock()
                for call in calls:
                    call()
                rounds.append(machine.clock() - begin)
            times.append(np.array(rounds))
        errors = [side.std(ddof=1) / side.mean() / 40**0.5 for side in times]
        distance = abs(np.log(times[0].mean() / times[1].mean()))
        wrong += distance > 2.6 * np.hypot(*errors)
    assert wrong >= 3


def test_turns_alternate_and_each_does_all_requests():
    clock, order = Clock(), []

    def calls(side: str) -> list:
        def call(index: int) -> None:
            order.append((side, index))
            clock.now += 0.07

        return [lambda index=index: call(index) for index in range(6)]

    found = take_turns(calls("a"), calls("b"), 3.0, clock)
    assert found.shape[1:] == (2, 6)
    np.testing.assert_allclose(found, 0.07)
    timed = order[14:]  # The first round, of six requests and one extra per side, is not counted.
    turn = {start: [start, start, start + 1] for start in (0, 2, 4)}  # The first request runs twice.
    rounds = ["ab ba ab", "ba ab ba"] * (len(found) // 2)
    expected = [
        (side, index)
        for turns in rounds
        for start, sides in zip(turn, turns.split(), strict=True)
        for side in sides
        for index in turn[start]
    ]
    assert timed == expected
    assert len(found) % 2 == 0


def test_going_first_is_no_advantage():
    """A machine on which whoever did the last request is five percent faster at the next one."""
    clock, last = Clock(), [""]

    def contender(name: str) -> Contender:
        def work(cost: float) -> None:
            clock.now += cost * (0.95 if last[0] == name else 1.0)
            last[0] = name

        return Contender(
            name, lambda: Loaded({"one": [lambda: work(0.3)], "each": [lambda c=c: work(c) for c in COSTS]})
        )

    for ratio in compare(contender("a"), contender("b"), seconds=8, clock=clock):
        assert ratio.speed.low == pytest.approx(1, abs=1e-6)
        assert ratio.speed.high == pytest.approx(1, abs=1e-6)


def test_the_gate():
    machine = Machine(0)
    first, second = machine.contender("a", COSTS, 0), machine.contender("b", 2 * COSTS, 0)
    (ratio,) = compare(first, second, seconds=10, clock=machine.clock)
    gate(ratio, 1.5)
    with pytest.raises(BenchmarkError, match=r"each: expected at least 2.5 times as fast, found ") as caught:
        gate(ratio, 2.5)
    assert caught.value.code == 5
    assert ratio.sittings >= 8


def test_least_cosine():
    a = np.array([[1, 0], [0, 2]], np.float32)
    assert least_cosine(a, a) == pytest.approx(1)
    assert least_cosine(a, np.array([[1, 0], [2, 0]], np.float32)) == pytest.approx(0)
    assert least_cosine(a, np.zeros((2, 3), np.float32)) is None
