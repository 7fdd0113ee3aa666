"""Which requests are admitted to the queue, and which are not answered in time."""

from __future__ import annotations

import threading
import time

import pytest

from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.machine import cores
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.scheduling.admission import Admission, QueueFullError
from naflex_deploy.runtime.scheduling.decoders import Apart
from naflex_deploy.runtime.scheduling.queue import DeadlineError, Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from tests.support.scheduling import BUDGET, Gate, image
from tests.support.sessions import FormulaSession


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
    with pytest.raises(QueueFullError, match="needs 5"):
        scheduler.submit([image(2, 6, 8)], deadline=now[0] + 60, goal=now[0] + 5)
    scheduler.submit([image(2, 6, 8)], deadline=now[0] + 60)


def test_decoding_that_would_take_too_long_refuses_too():
    admission = Admission(1000, decoders=2, tokens=10, rate=1000.0, decoding=9)
    admission.note_decoding(0.1)
    admission.check(10, 0.7)
    with pytest.raises(QueueFullError, match=r"needs 0\.50"):
        admission.check(10, 0.6)
    with pytest.raises(QueueFullError, match=r"needs 0\.65"):
        admission.check(10, 0.7, images=4)


def test_a_rate_that_was_measured_too_low_is_found_out_by_small_packs():
    """It would let so few tokens in that no pack is large enough to say otherwise."""
    admission = Admission(1000)
    admission.note(100, 10.0, 100)
    assert admission.rate == 10
    for _ in range(40):
        admission.note(20, 0.02, 100)
    assert admission.rate == pytest.approx(1000, rel=0.01)
    admission.note(1, 0.02, 100)  # a small pack that is slow says nothing
    assert admission.rate == pytest.approx(1000, rel=0.01)


def test_images_that_take_long_to_decode_keep_no_other_waiting(make):
    go = threading.Event()

    def slow() -> Patches:
        assert go.wait(20)
        return image(0, 2, 2)

    scheduler = make(FormulaSession())
    waiting = scheduler.submit([lambda: Apart(slow)] * (cores() + 1), tokens=8)
    (other,) = scheduler.submit([lambda: image(1, 2, 2)], tokens=8)
    assert other.result(10).grid_hw == (2, 2)
    assert not any(future.done() for future in waiting)
    go.set()
    assert [future.result(10).grid_hw for future in waiting] == [(2, 2)] * (cores() + 1)
    assert scheduler.admitted_tokens == 0
