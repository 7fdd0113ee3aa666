"""A process that is ended when its time is up, and used again while it behaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from naflex_deploy.core import worker
from naflex_deploy.core.errors import MissingExtraError
from naflex_deploy.core.worker import WorkerError, fork_server, stream
from tests.support.worker_calls import Reading, allocating, arrays, crashing, entangled, failing, imported, odd, squares


@pytest.fixture(autouse=True)
def _no_process_of_other_tests() -> Iterator[None]:
    worker.end_all()
    yield
    worker.end_all()


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


def test_arrays_come_back_as_they_were_and_can_be_written_to():
    (found,) = called(arrays, 700)
    expected = next(arrays(700))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    found[0] += 1
    assert found[0] is found[-1]


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


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="memory is bounded on Linux alone")
def test_each_call_has_all_of_the_memory_again():
    found = [called(entangled, 100 << 20, memory=256 << 20) for _ in range(4)]
    assert found == [found[0]] * 4


@pytest.mark.parametrize("ahead", [True, False])
def test_processes_end_with_a_parent_that_is_killed_in_the_middle_of_a_call(ahead):
    script = f"""
import os
from naflex_deploy.core.worker import fork_server, stream
from tests.support.worker_calls import squares
if {ahead}:
    fork_server.fork_ahead()
for pid, _ in stream(squares, 2, 1, seconds=60, memory=1 << 30):
    print(pid, fork_server._server._number, flush=True)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        numbers = [int(number) for number in parent.stdout.readline().split()]
        assert len(numbers) == 2
        assert all(map(running, numbers))
        parent.kill()
    until(lambda: not any(map(running, numbers)))


def running(number: int) -> bool:
    """Whether a process runs; one that has ended may still wait for the system to collect it."""
    try:
        return " Z " not in Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_reads_in_other_threads_ends_with_everything():
    read = Reading()
    thread = threading.Thread(target=read)
    thread.start()
    assert read.started.wait(60)
    worker.end_all()
    thread.join(30)
    assert read.errors == ["its process ended with -9"]


def test_a_fork_server_that_was_killed_is_replaced():
    pid = called(squares, 1)[0][0]
    assert fork_server._server is not None
    os.kill(fork_server._server._number, signal.SIGKILL)
    until(lambda: not running(pid))
    assert called(squares, 1)[0][0] != pid


def test_processes_are_forked_with_what_their_calls_import():
    def named(*modules: str) -> tuple[int, bool]:
        (found,) = stream(imported, "zipapp", seconds=20, memory=1 << 30, modules=modules)
        return found

    without, has = named()
    assert not has
    within, has = named("zipapp", "no_such_module")
    assert has
    assert within != without
    assert named()[0] == within
    assert not running(without)  # as it would import the module once more


def test_a_new_interpreter_does_the_same_where_forks_are_not_safe(monkeypatch):
    monkeypatch.setattr(fork_server, "FORKS", False)
    pid = called(squares, 1)[0][0]
    assert called(squares, 2)[1] == (pid, 1)
    with pytest.raises(TimeoutError, match="it took more than"):
        called(squares, 1, 0, seconds=0.1)
    assert not running(pid)
    assert fork_server._server is None


def test_a_process_with_threads_is_not_forked():
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    fork_server.fork_ahead()
    waiting.set()
    thread.join()
    assert fork_server._server is None


def test_a_fork_of_this_process_has_processes_of_its_own():
    pid = called(squares, 1)[0][0]
    child = os.fork()
    if not child:
        os._exit(fork_server._server is not None or bool(worker._idle))
    assert os.waitpid(child, 0)[1] == 0
    assert called(squares, 1)[0][0] == pid
