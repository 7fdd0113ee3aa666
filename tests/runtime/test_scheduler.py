from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures import wait as wait_for

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.admission import QueueFullError
from naflex_deploy.runtime.isolation import EngineError
from naflex_deploy.runtime.queue import DeadlineError, Policy
from naflex_deploy.runtime.scheduler import ClosedError, Scheduler
from tests.support.sessions import POISON, FormulaSession, formula

BUDGET = 48
OUTPUTS = ("pooled", "tokens")


def image(seed: int, h: int, w: int, poison: bool = False) -> Patches:
    pixels = np.random.default_rng(seed).integers(0, POISON, (h * w, 12), dtype=np.uint8)
    if poison:
        pixels[0, 0] = POISON
    return Patches(pixels, (h, w))


def assert_own(served, patches: Patches) -> None:
    np.testing.assert_array_equal(served.outputs["pooled"], formula(patches))
    expected = np.repeat(patches.pixels[:, :1].astype(np.float32), 4, axis=1).reshape(*patches.grid_hw, 4)
    np.testing.assert_array_equal(served.outputs["tokens"], expected)
    assert served.grid_hw == patches.grid_hw


class Later(Executor):
    """An executor whose work is done when the test says."""

    def __init__(self) -> None:
        self.works: list = []

    def submit(self, function, /, *args, **kwargs):
        self.works.append(lambda: function(*args, **kwargs))
        return Future()


class Interleaving(RuleBasedStateMachine):
    """Every step of the scheduler in any order, on a clock that the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.decoders = Later()
        self.scheduler = Scheduler(
            FormulaSession(poison=True),
            budget=BUDGET,
            max_images=5,
            policy=Policy(queue_tokens=4 * BUDGET, max_wait=0.1, look_ahead=3),
            runs=2,
            decoders=self.decoders,
            clock=lambda: self.now,
            start=False,
        )
        self.open: list = []  # (future, patches, poisoned, broken, deadline)
        self.packs: list = []
        self.seed = 0

    @rule(
        grids=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 6)), min_size=1, max_size=4),
        decoded=st.booleans(),
        kind=st.sampled_from(["good", "good", "good", "poison", "broken"]),
        allowed=st.sampled_from([float("inf"), 0.5]),
        priority=st.integers(-1, 1),
    )
    def submit(self, grids, decoded, kind, allowed, priority):
        images = []
        for h, w in grids:
            self.seed += 1
            images.append(image(self.seed, h, w, kind == "poison"))

        def broken():
            raise ImageError("damaged")

        broken_ones = kind == "broken" and not decoded
        works = [p if decoded else broken if broken_ones else (lambda p=p: p) for p in images]
        before = self.scheduler.admitted_tokens
        try:
            futures = self.scheduler.submit(works, OUTPUTS, deadline=self.now + allowed, priority=priority)
        except QueueFullError:
            assert self.scheduler.admitted_tokens == before
            return
        for future, patches in zip(futures, images, strict=True):
            self.open.append((future, patches, kind == "poison", broken_ones, self.now + allowed))

    @rule(index=st.integers(0))
    @precondition(lambda self: self.decoders.works)
    def decode(self, index):
        self.decoders.works.pop(index % len(self.decoders.works))()

    @rule(seconds=st.floats(0, 0.3))
    def wait(self, seconds):
        self.now += seconds

    @rule(index=st.integers(0))
    @precondition(lambda self: self.open)
    def cancel(self, index):
        self.open[index % len(self.open)][0].cancel()

    @rule()
    @precondition(lambda self: len(self.packs) < 3)
    def form(self):
        run = self.scheduler.step()
        if run is not None:
            self.packs.append(run)

    @rule(index=st.integers(0))
    @precondition(lambda self: self.packs)
    def run_pack(self, index):
        self.packs.pop(index % len(self.packs))()

    @invariant()
    def bounded(self):
        assert 0 <= self.scheduler.waiting_tokens <= self.scheduler.admitted_tokens <= self.scheduler.capacity

    @invariant()
    def own_results(self):
        still = []
        for entry in self.open:
            future, patches, poisoned, broken, deadline = entry
            if not future.done():
                still.append(entry)
                continue
            if future.cancelled():
                continue
            error = future.exception()
            if isinstance(error, DeadlineError):
                assert self.now >= deadline
            elif broken:
                assert isinstance(error, ImageError)
            elif poisoned:
                assert isinstance(error, EngineError)
            else:
                assert_own(future.result(), patches)
        self.open = still

    def teardown(self):
        """Whatever happened, everything is answered in the end and all room is given back."""
        for _ in range(1000):
            while self.decoders.works:
                self.decoders.works.pop()()
            self.now += 1.0
            self.form()
            while self.packs:
                self.packs.pop()()
            self.own_results()
            if not self.open:
                break
        assert not self.open
        assert self.scheduler.admitted_tokens == self.scheduler.waiting_tokens == 0


Interleaving.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestInterleaving = Interleaving.TestCase


@pytest.fixture
def make():
    opened: list[Scheduler] = []

    def made(session, **options):
        options = {"budget": BUDGET, "max_images": 5, **options}
        opened.append(Scheduler(session, **options))
        return opened[-1]

    yield made
    for scheduler in opened:
        scheduler.close(5)


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


class Gate(FormulaSession):
    """A session that runs a pack when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def run(self, pack, outputs):
        self.entered.release()
        assert self.go.acquire(timeout=10)
        return super().run(pack, outputs)


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
    futures = scheduler.submit([image(i, 6, 8) for i in range(images)])  # each a pack
    while run := scheduler.step():
        run()
    assert all(future.done() for future in futures)
    assert session.runs == with_all_cores  # the last


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


def test_a_deadline_is_met_although_nothing_else_happens(make):
    session = Gate()
    scheduler = make(session)
    scheduler.submit([image(0, 6, 8)])
    assert session.entered.acquire(timeout=10)
    late = scheduler.submit([image(1, 2, 2)], deadline=time.monotonic() + 0.05)[0]
    with pytest.raises(DeadlineError):
        late.result(5)
    session.go.release(1)


def test_the_queue_is_bounded_in_tokens_and_all_or_none(make):
    session = Gate()
    scheduler = make(session, policy=Policy(queue_tokens=100))
    scheduler.submit([image(0, 6, 8)])
    with pytest.raises(QueueFullError, match="48 of 100"):
        scheduler.submit([image(1, 6, 8), image(2, 6, 8)])
    assert scheduler.admitted_tokens == 48
    scheduler.submit([lambda: image(1, 1, 1)], tokens=48)
    assert scheduler.admitted_tokens <= 96
    with pytest.raises(UsageError, match="at most 100"):
        scheduler.submit([image(1, 6, 8)] * 3)
    with pytest.raises(ImageError, match="at most 48"):
        scheduler.submit([image(1, 7, 7)])
    session.go.release(9)


def test_a_queue_longer_than_the_deadline_refuses_at_once():
    now = [0.0]

    class Slow(FormulaSession):
        def run(self, pack, outputs):
            now[0] += 1.0
            return super().run(pack, outputs)

    scheduler = Scheduler(Slow(), budget=BUDGET, max_images=5, clock=lambda: now[0], start=False)
    scheduler.submit([image(0, 6, 8)])
    scheduler.step()()
    scheduler.submit([image(1, 6, 8)] * 3, deadline=now[0] + 10)
    with pytest.raises(QueueFullError, match="needs 4"):
        scheduler.submit([image(2, 6, 8)], deadline=now[0] + 4.5)
    scheduler.submit([image(2, 6, 8)], deadline=now[0] + 5.5)


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
