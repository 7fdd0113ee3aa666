"""A process that is ended when its time is up, and used again while it behaves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from naflex_deploy.core import worker
from naflex_deploy.core.errors import MissingExtraError
from naflex_deploy.core.worker import Worker, WorkerError, stream
from tests.support.worker_calls import allocating, crashing, failing, odd, squares


@pytest.fixture(autouse=True)
def _no_process_of_other_tests() -> Iterator[None]:
    worker._end_idle()
    yield
    worker._end_idle()


def called(function, *arguments, seconds: float = 20.0, memory: int = 1 << 30) -> list:
    return list(stream(function, *arguments, seconds=seconds, memory=memory))


def test_a_process_is_used_again_until_its_time_is_up():
    first = called(squares, 3)
    assert [value for _, value in first] == [0, 1, 4]
    assert first[0][0] != os.getpid()
    assert called(squares, 1)[0] == first[0]
    found = []
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="it took more than"):
        found += stream(squares, 4, 2, seconds=0.2, memory=1 << 30)
    assert time.monotonic() - started < 10
    assert called(squares, 1)[0][0] != first[0][0]


def test_a_process_whose_answer_nobody_waits_for_is_ended():
    answers = stream(squares, 9, seconds=20, memory=1 << 30)
    pid, _ = next(answers)
    answers.close()
    assert called(squares, 1)[0][0] != pid


def test_errors_come_back_and_the_process_stays():
    pid = called(squares, 1)[0][0]
    with pytest.raises(KeyError, match="what"):
        called(failing, KeyError("what"))
    with pytest.raises(MissingExtraError, match="pdf"):
        called(failing, MissingExtraError("pypdf", "pdf"))
    with pytest.raises(WorkerError, match="OddError: ab"):
        called(odd)
    assert called(squares, 1)[0][0] == pid


def test_a_crash_is_an_error_of_the_call():
    with pytest.raises(WorkerError, match="ended with 7"):
        called(crashing)
    assert called(squares, 1)[0][1] == 0


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="memory is bounded on Linux alone")
def test_memory_is_bounded():
    assert called(allocating, 1 << 20, memory=256 << 20) == [1 << 20]
    with pytest.raises(MemoryError):
        called(allocating, 300 << 20, memory=256 << 20)


def test_a_process_ends_with_the_parent_in_the_middle_of_a_call():
    own = Worker(1 << 30)
    answers = own.stream(squares, 2, 1, seconds=20)
    next(answers)
    assert own._process.stdin is not None
    own._process.stdin.close()  # as the system does for a parent that is killed
    assert own._process.wait(10) == 0
    answers.close()
