"""The queue of texts: batches, deadlines, failures and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from naflex_deploy.runtime.packing.isolation import EngineError
from naflex_deploy.runtime.scheduling.admission import ClosedError, QueueFullError
from naflex_deploy.runtime.scheduling.queue import DeadlineError
from naflex_deploy.runtime.scheduling.texts import AT_ONCE, TextQueue


class Tower:
    """Vectors of the lengths of texts. It waits to be let on, and fails on what it is told to."""

    def __init__(self) -> None:
        self.go, self.running = threading.Event(), threading.Event()
        self.calls: list[int] = []

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        self.running.set()
        assert self.go.wait(20)
        self.calls.append(len(texts))
        if "bad" in texts:
            raise ValueError("cannot read it")
        counts = np.array([len(text) for text in texts])
        vectors = np.repeat(counts[:, None], 3, 1).astype(np.float32)
        vectors[[text == "nan" for text in texts]] = np.nan
        return vectors, counts


@pytest.fixture
def tower() -> Tower:
    return Tower()


def test_texts_that_wait_run_together_and_in_order(tower):
    queue = TextQueue(tower)
    first = queue.submit(["x"])
    assert tower.running.wait(20)
    waiting = [queue.submit(["a" * number]) for number in range(1, AT_ONCE + 3)]
    tower.go.set()
    assert [future.result(20).vector[0] for (future,) in waiting] == list(range(1, AT_ONCE + 3))
    assert first[0].result(20).tokens == 1
    assert tower.calls == [1, AT_ONCE, 2]
    assert queue.close(20)


def test_only_the_text_at_fault_fails(tower):
    tower.go.set()
    queue = TextQueue(tower)
    good, bad, nan = queue.submit(["good", "bad", "nan"])
    assert good.result(20).tokens == 4
    with pytest.raises(EngineError, match="the text tower failed: ValueError: cannot read it"):
        bad.result(20)
    with pytest.raises(EngineError, match="NaN"):
        nan.result(20)
    assert queue.submit(["after"])[0].result(20).tokens == 5


def test_full_late_cancelled_and_closed(tower):
    queue = TextQueue(tower, capacity=4)
    (running,) = queue.submit(["x"])
    assert tower.running.wait(20)
    late, cancelled, kept = (queue.submit(["y"], deadline=time.monotonic() + wait)[0] for wait in (-1, 60, 60))
    assert cancelled.cancel()
    with pytest.raises(QueueFullError, match="the queue holds 3 of 4 texts and has no room for 2 more"):
        queue.submit(["a", "b"])
    tower.go.set()
    assert queue.close(20)
    assert (running.result(20).tokens, kept.result(20).tokens) == (1, 1)
    with pytest.raises(DeadlineError):
        late.result(20)
    with pytest.raises(ClosedError):
        queue.submit(["z"])


def test_texts_that_would_wait_longer_than_their_goal_are_not_admitted(tower):
    queue = TextQueue(tower)
    first = queue.submit(["x"])[0]
    tower.go.set()
    first.result(20)
    tower.go.clear()
    queue._rate = 10.0
    tower.running.clear()
    queue.submit(["y"])
    assert tower.running.wait(20)
    line = queue.submit(["z"] * (AT_ONCE - 1), goal=time.monotonic())
    line += queue.submit(["z"], goal=time.monotonic())  # a short line is not judged by one run
    with pytest.raises(QueueFullError, match=r"texts would wait 6.4 s") as refused:
        queue.submit(["late"], goal=time.monotonic() + 5)
    assert 1 < refused.value.retry_after < 2
    line += queue.submit(["soon"], goal=time.monotonic() + 60)
    tower.go.set()
    assert [future.result(20).tokens for future in line] == [1] * AT_ONCE + [4]


def test_closing_a_queue_that_hangs_answers_those_that_wait(tower):
    queue = TextQueue(tower)
    queue.submit(["x"])
    assert tower.running.wait(20)
    (waiting,) = queue.submit(["y"])
    assert not queue.close(0.01)
    with pytest.raises(ClosedError):
        waiting.result(20)
    tower.go.set()
