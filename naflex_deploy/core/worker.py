"""A process that computes for this one, can be ended at any time, and is used again while it behaves.

It is for code that keeps no limit of its own: a thread cannot be ended, nor its memory be bounded.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

T = TypeVar("T")

START = 60.0
"""Seconds in which a process must have started and imported what it is to call."""


class WorkerError(Exception):
    """The process ended while it computed: it crashed, or was killed for its memory."""


class Worker:
    """A process that runs one call at a time.

    Args:
        memory: Maximum number of bytes that it may allocate; enforced on Linux alone.
        nice: By how much its priority is lower.
    """

    def __init__(self, memory: int, nice: int = 0) -> None:
        self.bounds = memory, nice
        command = [sys.executable, "-P", "-m", "naflex_deploy.core.worker", str(memory), str(nice)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def stream(self, function: Callable[..., Iterator[T]], *arguments: Any, seconds: float) -> Iterator[T]:
        """What a function yields. The process is ended where this is not used up.

        Args:
            function: Is imported there by its name.
            arguments: Of the function; like what it yields, they are pickled.
            seconds: Time for each thing that it yields.

        Raises:
            TimeoutError: One took longer.
            WorkerError: The process ended.
        """
        finished = False
        try:
            # What the function imports does not count.
            kind, value = self._asked(pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL), START)
            if kind == "begun":
                kind, value = self._asked(b"", seconds)
            while kind == "item":
                yield value
                kind, value = self._asked(b"", seconds)
            finished = True
            if kind == "error":
                raise value
        finally:
            if not finished:
                self.end()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """End the process at once."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    def _asked(self, request: bytes, seconds: float) -> tuple[str, Any]:
        """Send a request, where there is one, and wait for the next answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def kill() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(max(seconds, 0.0), kill)
        timer.daemon = True
        timer.start()
        try:
            if request:
                _write(self._process.stdin, request)
            kind, value = pickle.loads(_read(self._process.stdout))
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            if late.is_set():
                raise TimeoutError(f"it took more than {seconds:g} s") from None
            raise WorkerError(f"its process ended with {self._process.wait()}") from error
        finally:
            timer.cancel()
        return kind, value


_idle: list[Worker] = []
_lock = threading.Lock()


def stream(
    function: Callable[..., Iterator[T]], *arguments: Any, seconds: float, memory: int, nice: int = 0
) -> Iterator[T]:
    """Like `Worker.stream`, in a process that is free, or else a new one; it is kept for the next call."""
    if seconds <= 0:
        raise TimeoutError("no time is left")
    with _lock:
        found = next((worker for worker in _idle if worker.bounds == (memory, nice)), None)
        if found is not None:
            _idle.remove(found)
    worker = found if found is not None and found.alive else Worker(memory, nice)
    try:
        yield from worker.stream(function, *arguments, seconds=seconds)
    finally:
        if worker.alive:
            with _lock:
                _idle.append(worker)


@atexit.register
def _end_idle() -> None:
    with _lock:
        workers = list(_idle)
        _idle.clear()
    for worker in workers:
        worker.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # its pipes belong to the parent


def _write(stream: IO[bytes], content: bytes) -> None:
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes:
    head = stream.read(8)
    content = stream.read(int.from_bytes(head, "little"))
    if len(head) < 8 or len(content) < int.from_bytes(head, "little"):
        raise EOFError
    return content


def _serve(memory: int, nice: int) -> None:
    """The process: answer requests until their stream ends, which it does with the parent."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(nice)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    while True:
        try:
            function, arguments = pickle.loads(requests.get())
            _write(answers, pickle.dumps(("begun", None)))
            for item in function(*arguments):
                _write(answers, pickle.dumps(("item", item), pickle.HIGHEST_PROTOCOL))
            last = pickle.dumps(("end", None))
        except Exception as error:
            last = _pickled(error)
        _write(answers, last)


def _pickled(error: Exception) -> bytes:
    """An error as an answer; as text where its class cannot be pickled."""
    try:
        content = pickle.dumps(("error", error))
        pickle.loads(content)
    except Exception:
        return pickle.dumps(("error", WorkerError(f"{type(error).__name__}: {error}")))
    return content


def _receive(requests: queue.SimpleQueue[bytes]) -> None:
    """Pass requests on, and end the process with the parent, even in the middle of a call."""
    try:
        while True:
            requests.put(_read(sys.stdin.buffer))
    except EOFError:
        os._exit(0)


if __name__ == "__main__":
    from naflex_deploy.core import worker  # so that what it pickles is not of a module "__main__"

    worker._serve(int(sys.argv[1]), int(sys.argv[2]))
