"""Packs of images that come from many threads: each caller gets its own results, and the engine is kept busy."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures import wait as wait_for

import numpy as np
import pytest

from naflex_deploy.runtime.packing.isolation import EngineError
from naflex_deploy.runtime.scheduling.queue import Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from tests.support.scheduling import BUDGET, OUTPUTS, Gate, assert_own, image
from tests.support.sessions import POISON, FormulaSession


@pytest.mark.parametrize("runs", [1, 2])
def test_threads_give_each_caller_its_own_result(make, runs):
    scheduler = make(FormulaSession(0.0005, poison=True), runs=runs, policy=Policy(queue_tokens=10**6))
    problems = []

    def caller(number: int) -> None:
        rng = np.random.default_rng(number)
        for turn in range(30):
            images = [
                image(number * 1000 + turn * 10 + i, *rng.integers(1, 7, 2), poison=rng.random() < 0.05)
                for i in range(rng.integers(1, 4))
            ]
            works = [p if rng.random() < 0.5 else (lambda p=p: p) for p in images]
            futures = scheduler.submit(works, OUTPUTS, priority=int(rng.integers(-1, 2)))
            if rng.random() < 0.2:
                futures[0].cancel()
            for future, patches in zip(futures, images, strict=True):
                try:
                    if patches.pixels[0, 0] == POISON:
                        with pytest.raises((EngineError, CancelledError)):
                            future.result(10)
                    else:
                        assert_own(future.result(10), patches)
                except CancelledError:
                    pass
                except BaseException as error:
                    problems.append(error)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert scheduler.admitted_tokens == 0


def test_the_next_pack_is_laid_out_while_one_runs(make):
    session = Gate()
    scheduler = make(session)
    first = scheduler.submit([image(0, 6, 8)], OUTPUTS)
    assert session.entered.acquire(timeout=10)
    second = scheduler.submit([image(1, 6, 4), image(2, 6, 4)], OUTPUTS)
    end = time.monotonic() + 10
    while scheduler.waiting_tokens and time.monotonic() < end:
        time.sleep(0.001)
    assert scheduler.waiting_tokens == 0, "a full pack stayed in the queue while the engine was busy"
    assert not session.entered.acquire(timeout=0.05), "two packs ran at once"
    session.go.release(2)
    assert {f.result(10).pack for f in first} == {0}
    assert {f.result(10).pack for f in second} == {1}


class TwoCores(FormulaSession):
    """Counts the packs that ran with the whole machine; the `worker`'s are its own."""

    workers, worker_is_loaded = 2, True

    def __init__(self) -> None:
        super().__init__()
        self.runs, self.one_core = 0, FormulaSession()

    def worker(self):
        return self.one_core

    def run(self, pack, outputs):
        self.runs += 1
        return super().run(pack, outputs)


@pytest.mark.parametrize(("images", "with_all_cores"), [(1, 1), (2, 1), (3, 1)])
def test_a_pack_has_all_cores_only_while_no_other_is_to_come(images, with_all_cores):
    session = TwoCores()
    scheduler = Scheduler(session, budget=BUDGET, max_images=5, start=False)
    futures = scheduler.submit([image(i, 6, 8) for i in range(images)])  # one pack each
    while run := scheduler.step():
        run()
    assert all(future.done() for future in futures)
    assert session.runs == with_all_cores  # only the last one


def test_an_image_that_left_is_not_run(make):
    session = Gate()
    scheduler = make(session)
    first = scheduler.submit([image(0, 6, 8)])
    assert session.entered.acquire(timeout=10)
    left = scheduler.submit([image(1, 2, 2)])[0]
    stays = scheduler.submit([image(2, 2, 2)])[0]
    assert left.cancel()
    session.go.release(2)
    wait_for([*first, stays], 10)
    assert stays.result().start == 0
    assert session.packs == [1, 1]
