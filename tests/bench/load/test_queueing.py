"""The scheduler that servers use, on a simulated clock, against an ideal queue."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.serving.ideal import simulate
from naflex_deploy.bench.load.load import poisson
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.scheduling.queue import Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from tests.bench.support import Clock

SERVICE = 0.05
TOKENS = 16
IMAGES = 3000


class Simulated:
    """While a pack runs, images arrive, and full packs are formed ahead."""

    def __init__(self, clock: Clock, arrivals: list[float]) -> None:
        self.clock, self.arrivals = clock, arrivals
        self.sent: list = []
        self.ahead: list = []

    def attach(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def run(self, pack, outputs):
        end = self.clock.now + SERVICE
        self.submit_until(end)
        self.clock.now = end
        return {"pooled": np.zeros((pack.images, 8), np.float32)}

    def submit_until(self, end: float) -> None:
        image = Patches(np.zeros((TOKENS, 3), np.uint8), (4, 4))
        while len(self.sent) < len(self.arrivals) and self.arrivals[len(self.sent)] <= end:
            self.clock.now = max(self.clock.now, self.arrivals[len(self.sent)])
            self.sent += self.scheduler.submit([image])
            if (run := self.scheduler.step()) is not None:
                self.ahead.append(run)


@pytest.mark.parametrize("per_pack", [1, 4, 16])
@pytest.mark.parametrize("load", [0.5, 0.7, 0.85])
def test_waiting_is_that_of_the_ideal_queue(per_pack, load):
    rate = load * per_pack / SERVICE
    arrivals = list(itertools.islice(poisson(rate, per_pack), IMAGES))
    clock = Clock()
    session = Simulated(clock, arrivals)
    policy = Policy(queue_tokens=10**9)
    budget = per_pack * TOKENS
    scheduler = Scheduler(session, budget=budget, max_images=per_pack, policy=policy, clock=clock, start=False)
    session.attach(scheduler)
    while True:
        run = session.ahead.pop(0) if session.ahead else scheduler.step()
        if run is not None:
            run()
        elif len(session.sent) < len(arrivals):
            event = min(arrivals[len(session.sent)], scheduler._queue.next_event(True))
            session.submit_until(event)
            clock.now = max(clock.now, event)
        elif scheduler.admitted_tokens:
            clock.now += policy.max_wait
        else:
            break
    waits = np.array([future.result(0).waited for future in session.sent])
    ideal = simulate(arrivals, [TOKENS] * IMAGES, budget=budget, max_images=per_pack, service=lambda _: SERVICE)
    assert waits.mean() == pytest.approx(np.mean(ideal), rel=0.05)
    assert np.quantile(waits, 0.99) == pytest.approx(np.quantile(ideal, 0.99), rel=0.05)
    assert np.mean(ideal) > 0.1 * SERVICE


def test_the_ideal_queue_of_one_image_a_pack_is_that_of_theory():
    """M/D/1: a mean wait of load · service / 2 (1 - load), by Pollaczek and Khinchine."""
    for load in (0.5, 0.85):
        arrivals = list(itertools.islice(poisson(load / SERVICE, 1), 60000))
        waits = simulate(arrivals, [1] * 60000, budget=1, max_images=1, service=lambda _: SERVICE)
        assert np.mean(waits) == pytest.approx(load * SERVICE / (2 * (1 - load)), rel=0.08)
