from __future__ import annotations

import pytest

from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from tests.support.scheduling import BUDGET
from tests.support.tiny import bundle, own_bundle

__all__ = ["bundle", "own_bundle"]


@pytest.fixture
def make():
    """Makes schedulers, which are closed at the end."""
    opened: list[Scheduler] = []

    def made(session, **options):
        options = {"budget": BUDGET, "max_images": 5, **options}
        opened.append(Scheduler(session, **options))
        return opened[-1]

    yield made
    for scheduler in opened:
        scheduler.close(5)
