"""Every order of a scheduler's steps, on a clock that the test advances: nothing is lost, mixed up or late."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.packing.isolation import EngineError
from naflex_deploy.runtime.scheduling.admission import QueueFullError
from naflex_deploy.runtime.scheduling.queue import DeadlineError, Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from tests.support.scheduling import BUDGET, OUTPUTS, Later, assert_own, image
from tests.support.sessions import FormulaSession


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
