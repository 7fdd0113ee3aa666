"""Load generators on a simulated clock: arrivals, the start of latency, uncounted samples, and when they stop."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from naflex_deploy.bench.load.latency import latency_of
from naflex_deploy.bench.load.load import Requests, closed_loop, offline, open_loop, poisson, single_stream
from naflex_deploy.bench.load.measure import measure_offline, step_of
from naflex_deploy.bench.load.mixes import Mix
from naflex_deploy.bench.load.stopping import Checks, Stopping
from naflex_deploy.bench.load.subject import open_subject, sound
from naflex_deploy.runtime.engine import Engine
from tests.bench.support import Clock, CostedSession
from tests.serving.support import pixels, png
from tests.support.bundles import summing_manifest, write_summing_bundle

FOREVER = Stopping(width=1e-9, floor=0.0, cap=20.0)


class Queue:
    """One at a time, in order, each taking so long; stalls for two seconds at the fifth."""

    def __init__(self, clock: Clock, seconds: float, stall: int = 5) -> None:
        self.clock, self.seconds, self.stall = clock, seconds, stall
        self.free = 0.0
        self.pending: list = []

    def send(self, number, done) -> None:
        start = max(self.free, self.clock.now)
        self.free = start + self.seconds + (2.0 if number == self.stall else 0.0)
        self.pending.append((self.free, done))

    def sleep(self, seconds: float) -> None:
        """Time passes, and what ends in it is answered at its own time."""
        until = self.clock.now + seconds
        while self.pending and self.pending[0][0] <= until:
            self.clock.now = max(self.clock.now, self.pending[0][0])
            self.pending.pop(0)[1]("ok")
        self.clock.now = until


def test_arrivals_are_a_poisson_process():
    times = np.array(list(itertools.takewhile(lambda t: t < 2000, poisson(5.0, 7))))
    counts = np.histogram(times, bins=2000)[0]
    assert counts.mean() == pytest.approx(5, rel=0.03)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.1)
    gaps = np.diff(times)
    assert np.mean(gaps > 0.4) == pytest.approx(math.exp(-2), rel=0.1)
    assert list(itertools.islice(poisson(5.0, 7), 9)) == times[:9].tolist()
    assert next(poisson(5.0, 8)) != times[0]


def test_latency_counts_from_when_a_request_was_due():
    """A stall delays those behind it, and all of that is seen: Lindley's recursion gives the same latencies."""
    clock = Clock()
    queue = Queue(clock, 0.05)
    found = open_loop(queue.send, 10.0, FOREVER, seed=3, clock=clock, sleep=queue.sleep, drain=0)
    np.testing.assert_allclose(found.due, 0.01 + np.array(list(itertools.islice(poisson(10.0, 3), len(found.due)))))
    free, expected = 0.0, []
    for number, due in enumerate(found.due):
        free = max(free, due) + 0.05 + (2.0 if number == queue.stall else 0.0)
        expected.append(free - due)
    answered = np.isfinite(found.latency)
    assert answered.sum() > 150
    np.testing.assert_allclose(found.latency[answered], np.array(expected)[answered], rtol=1e-6)
    np.testing.assert_allclose(found.lag, 0, atol=1e-9)


def test_a_generator_that_is_late_says_so_and_its_delay_counts():
    clock = Clock()

    def send(number, done) -> None:
        clock.now += 0.3  # The sender itself is delayed.
        done("ok")

    found = open_loop(send, 10.0, Stopping(cap=5.0, floor=0.0, width=1e-9), seed=0, clock=clock, sleep=clock.sleep)
    assert found.lag[-1] > 5
    np.testing.assert_allclose(found.latency, found.lag + 0.3)


def test_a_generator_that_cannot_keep_up_gives_up():
    clock = Clock()

    def send(number, done) -> None:
        clock.now += 0.001
        done("ok")

    found = open_loop(send, 1e9, Stopping(cap=1.0, floor=0.0, width=1e-9), clock=clock, sleep=clock.sleep)
    assert 2.0 < clock.now < 2.1
    assert len(found.due) == pytest.approx(2000, rel=0.01)


def test_refusals_and_failures_are_shares_and_not_latencies():
    clock = Clock()
    kinds = ("ok", "rejected", "ok", "late", "error")
    found = open_loop(
        lambda number, done: done(kinds[number % 5]), 50.0, FOREVER, seed=0, clock=clock, sleep=clock.sleep
    )
    assert found.share("ok") == pytest.approx(0.4, abs=0.01)
    assert len(found.ok) == sum(status == "ok" for status in found.statuses)
    step = step_of(found, 50.0, slo=1.0)
    assert step.rejected == pytest.approx(0.2, abs=0.01)
    assert step.errors == pytest.approx(0.2, abs=0.01)
    assert step.goodput == pytest.approx(step.completed)
    assert step.sent == pytest.approx(50, rel=0.1)


def test_goodput_counts_what_is_within_the_service_level():
    clock = Clock()
    queue = Queue(clock, 0.05)
    found = open_loop(queue.send, 10.0, FOREVER, seed=3, clock=clock, sleep=queue.sleep, drain=0)
    step = step_of(found, 10.0, slo=0.2)
    assert step.goodput == pytest.approx(step.completed * (found.ok <= 0.2).mean())
    assert step.goodput < step.completed
    assert step.completed == pytest.approx(10, rel=0.15)


def test_an_overloaded_engine_completes_what_it_can():
    """Ten seconds at twice its rate; then it works off the queue."""
    due = np.array(list(itertools.takewhile(lambda t: t < 10, poisson(20.0, 3))))
    answered, free = [], 0.0
    for time in due:
        free = max(free, time) + 0.1
        answered.append(free)
    found = Requests(np.arange(len(due)), due, due, np.array(answered) - due, ("ok",) * len(due))
    step = step_of(found, 20.0, slo=0.5)
    assert step.sent == pytest.approx(20, rel=0.15)
    assert step.completed == pytest.approx(10, rel=0.02)
    assert 0 < step.goodput < 2


def test_a_closed_loop_keeps_so_many_under_way():
    clock, under_way, most = Clock(), [], []

    def send(number, done) -> None:
        under_way.append(done)
        most.append(len(under_way))
        clock.now += 0.01
        if len(under_way) == 4:
            under_way.pop(0)("ok")

    found = closed_loop(send, 4, Stopping(cap=1.0, floor=0.0, width=1e-9), drain=0, clock=clock)
    assert max(most) == 4
    assert len(found.due) >= 95


def engine(clock: Clock) -> Engine:
    manifest = summing_manifest()
    return Engine(CostedSession(clock), manifest, manifest.variants[0])


def test_single_stream_measures_each_image_alone():
    clock = Clock()
    images = [pixels(seed, *size) for seed, size in enumerate([(8, 12), (16, 4), (4, 4)])]
    found = single_stream(engine(clock), images, ("pooled",), Stopping(cap=0.2, floor=0.0, width=1e-9), clock=clock)
    counts = np.bincount(found.images)
    assert counts.max() - counts.min() <= 1
    for index, tokens in enumerate([6, 4, 1]):
        expected = 0.001 + 0.0005 + 2e-5 * tokens + 1e-8 * tokens**2
        np.testing.assert_allclose(found.seconds[found.images == index], expected, rtol=1e-6)


def test_offline_counts_whole_passes_without_the_first():
    clock = Clock()
    images = [pixels(seed, 16, 16) for seed in range(8)]
    found = offline(engine(clock), images, ("pooled",), 8, Stopping(cap=0.5, floor=0.0, width=1e-9), clock=clock)
    packs = 8 * 16 / 64
    expected = packs * (0.001 + 4 * 0.0005 + 64 * 2e-5 + 4 * 16**2 * 1e-8)
    assert np.mean(found.seconds) == pytest.approx(expected, rel=0.25)
    assert found.end - found.start == pytest.approx(found.seconds.sum())


def test_stops_when_the_intervals_are_narrow_not_before_the_floor_and_by_the_cap():
    random = np.random.default_rng(0)
    wide, narrow = random.lognormal(0, 1, 400).tolist(), random.normal(1, 0.01, 400).tolist()
    stopping = Stopping(width=0.05, floor=1.0, cap=10.0)
    assert stopping.enough(narrow, 1.0)
    assert not stopping.enough(narrow, 0.9)
    assert not stopping.enough(wide, 9.9)
    assert stopping.enough(wide, 10.0)
    assert not stopping.enough(narrow[:300], 5.0), "too few for p99"
    assert Stopping(width=0.05, tail=False).enough(narrow[:300], 5.0)


def test_asking_is_seldom_and_the_cap_is_kept():
    asked = []

    class Counting(Stopping):
        def enough(self, samples, seconds):
            asked.append(len(samples))
            return super().enough(samples, seconds)

    checks = Checks(Counting(width=1e-9, floor=0.0, cap=1000.0))
    samples: list[float] = []
    values = np.random.default_rng(0).lognormal(0, 1, 5000)
    for number in range(5000):
        samples.append(float(values[number]))
        assert not checks.enough(samples, number / 10)
    assert len(asked) < 80
    assert checks.enough(samples, 1000.0)


def test_latency_gives_a_quantile_only_where_there_are_enough_samples():
    found = latency_of(np.random.default_rng(0).lognormal(0, 1, 100))
    assert found.quantiles["p95"] is not None
    assert found.quantiles["p99"] is None
    assert latency_of(np.array([])).most == 0


def test_throughput_of_a_mix_smaller_than_a_pack_is_that_of_its_packs(tmp_path):
    """Three images of 6, 4 and 1 tokens: a pack holds many rounds of them, whose results come at the same time."""
    clock = Clock()
    terms = {"call": 0.1, "image": 0.0, "token": 0.001, "score": 0.0}
    subject = open_subject(write_summing_bundle(tmp_path), session=lambda *_: CostedSession(clock, **terms))
    files = tuple(png(pixels(seed, *size)) for seed, size in enumerate([(8, 12), (16, 4), (4, 4)]))
    sources, prepared, _ = sound(subject, Mix("three", "", files, ("a", "b", "c")))
    lasting = Stopping(cap=100.0, floor=0.0, width=1e-9)
    found, _ = measure_offline(subject, sources, prepared, lasting, clock=clock)
    full = 64 / 11 * 3 / (0.1 + 64 * 0.001)  # images in a full pack of 64 tokens, divided by its seconds
    assert found.images_estimate == pytest.approx(full, rel=0.1)
    assert found.tokens == pytest.approx(full * 11 / 3, rel=0.1)
