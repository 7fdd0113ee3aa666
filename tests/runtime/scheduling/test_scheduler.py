"""Packs of images that come from many threads: each caller gets its own results, and the engine is kept busy."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures import wait as wait_for

import numpy as np
import pytest

from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.packing.isolation import EngineError
from naflex_deploy.runtime.scheduling.queue import Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from tests.support.scheduling import BUDGET, OUTPUTS, Gate, Later, assert_own, image
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


def test_an_idle_engine_waits_while_images_are_decoded_but_not_long():
    now, decoders = [0.0], Later()
    options = {"policy": Policy(max_wait=0.01), "decoders": decoders, "clock": lambda: now[0], "start": False}
    scheduler = Scheduler(FormulaSession(), budget=BUDGET, max_images=5, **options)
    scheduler._admission.rate = BUDGET / 10  # a full pack takes 10 s
    futures = scheduler.submit([lambda i=i: image(i, 3, 4) for i in range(6)], tokens=12)
    for _ in range(2):
        decoders.works.pop(0)()
    now[0] = 0.9
    assert scheduler.step() is None
    for _ in range(2):
        decoders.works.pop(0)()
    scheduler.step()()
    assert [future.done() for future in futures] == [True] * 4 + [False] * 2
    decoders.works.pop(0)()
    now[0] = 2.0
    scheduler.step()()  # after a tenth of those 10 s it waits no more
    assert futures[4].done()


def test_an_engine_is_woken_when_the_last_image_cannot_be_decoded(make):
    go = threading.Event()

    def broken():
        go.wait(10)
        raise ImageError("damaged")

    scheduler = make(FormulaSession())
    scheduler._admission.rate = 1e-6
    good, bad = scheduler.submit([lambda: image(0, 3, 4), broken], tokens=12)
    end = time.monotonic() + 10
    while not scheduler.waiting_tokens and time.monotonic() < end:
        time.sleep(0.001)
    assert not good.done()
    go.set()
    assert isinstance(bad.exception(10), ImageError)
    assert good.result(10).grid_hw == (3, 4)


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
