"""Which requests are admitted to the queue, and which are not answered in time."""

from __future__ import annotations

import time

import pytest

from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.runtime.scheduling.admission import QueueFullError
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
