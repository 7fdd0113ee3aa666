"""Engines that fail, die or hang, and the end of a scheduler: every caller gets an answer."""

from __future__ import annotations

import pytest

from naflex_deploy.runtime.packing.isolation import EngineError
from naflex_deploy.runtime.scheduling.admission import ClosedError
from naflex_deploy.runtime.scheduling.queue import Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from tests.support.scheduling import BUDGET, OUTPUTS, Gate, assert_own, image
from tests.support.sessions import POISON, FormulaSession


def test_an_engine_that_fails_on_one_image_fails_only_that():
    class Picky(FormulaSession):
        def run(self, pack, outputs):
            if (pack.patches[:, 0] == POISON).any():
                raise RuntimeError("no such kernel\nat line 3")
            return super().run(pack, outputs)

    scheduler = Scheduler(Picky(), budget=BUDGET, max_images=5, start=False, policy=Policy(max_wait=0))
    images = [image(0, 2, 2), image(1, 2, 2, poison=True), image(2, 2, 2)]
    futures = scheduler.submit(images, OUTPUTS)
    scheduler.step()()
    assert_own(futures[0].result(0), images[0])
    assert_own(futures[2].result(0), images[2])
    with pytest.raises(EngineError, match="no such kernel at line 3"):
        futures[1].result(0)


@pytest.mark.parametrize("dies_in", range(6))
def test_a_worker_that_dies_while_its_scheduler_is_closed_costs_nobody_a_result(dies_in):
    """As in a reload, the worker dying in each of the runs: a pack, its images alone as one is poisoned, a pack."""

    class Killed(FormulaSession):
        runs = 0

        def run(self, pack, outputs):
            self.runs += 1
            if self.runs == 1 + dies_in:
                raise BrokenPipeError
            return super().run(pack, outputs)

    scheduler = Scheduler(Killed(poison=True), budget=BUDGET, max_images=3)
    images = [image(seed, 2, 2, poison=seed == 1) for seed in range(5)]
    futures = scheduler.submit(images, OUTPUTS)
    assert scheduler.close(20)
    for seed, (future, patches) in enumerate(zip(futures, images, strict=True)):
        if seed == 1:
            assert isinstance(future.exception(0), EngineError)
        else:
            assert_own(future.result(0), patches)
    assert scheduler.admitted_tokens == 0


def test_a_thread_survives_whatever_the_engine_throws(make):
    class Exits(FormulaSession):
        def run(self, pack, outputs):
            if not self.packs:
                self.packs.append(0)
                raise SystemExit
            return super().run(pack, outputs)

    scheduler = make(Exits())
    with pytest.raises(EngineError, match="SystemExit"):
        scheduler.submit([image(0, 2, 2)])[0].result(10)
    for seed in range(4):
        assert_own(scheduler.submit([image(seed, 2, 2)], OUTPUTS)[0].result(10), image(seed, 2, 2))


def test_close_answers_what_was_admitted_and_refuses_the_rest(make):
    scheduler = make(FormulaSession(0.01))
    futures = scheduler.submit([image(i, 6, 8) for i in range(10)])
    assert scheduler.close(10)
    assert all(f.done() and f.exception() is None for f in futures)
    with pytest.raises(ClosedError):
        scheduler.submit([image(0, 1, 1)])


def test_close_gives_up_on_an_engine_that_hangs(make):
    session = Gate()
    scheduler = make(session)
    futures = scheduler.submit([image(i, 6, 8) for i in range(4)])
    assert session.entered.acquire(timeout=10)
    assert not scheduler.close(0.1)
    for future in futures:
        with pytest.raises(ClosedError):
            future.result(1)
    session.go.release(9)
