"""Processes that compute for this one, can be ended at any time, and are used again while they behave.

They are for code that keeps no limit of its own: a thread cannot be ended, nor its memory be bounded.

stream ─▶ Worker ─▶ socket ─▶ process, forked by the fork server, which this process forked or started
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from naflex_deploy.core.worker import fork_server
from naflex_deploy.core.worker.channel import WorkerError
from naflex_deploy.core.worker.client import Worker

__all__ = ["Worker", "WorkerError", "stream"]

T = TypeVar("T")

_idle: list[Worker] = []
_busy: set[Worker] = set()
_calls: Counter[tuple[int, int]] = Counter()
"""How many calls have, or start, a process of these bounds."""
_lock = threading.Condition()

SOON = 0.02
"""Seconds that a call waits for a process that is busy before it starts another: most calls take less."""


def stream(
    function: Callable[..., Iterator[T]],
    *arguments: Any,
    seconds: float,
    memory: int,
    nice: int = 0,
    modules: tuple[str, ...] = (),
) -> Iterator[T]:
    """Like `Worker.stream`, in a process that is free, or else a new one; it is kept for the next call.

    Args:
        function, arguments, seconds: See `Worker.stream`.
        memory, nice, modules: See `Worker`.
    """
    if seconds <= 0:
        raise TimeoutError("no time is left")
    bounds = memory, nice
    worker = _free(bounds, modules)
    try:
        worker = worker or Worker(memory, nice, (function.__module__, *modules))
        with _lock:
            _busy.add(worker)
        yield from worker.stream(function, *arguments, seconds=seconds)
    finally:
        alive = worker is not None and worker.alive
        with _lock:
            _calls[bounds] -= 1
            if worker is not None:
                _busy.discard(worker)
                if alive:
                    _idle.append(worker)
            _lock.notify_all()
        if worker is not None and not alive:
            worker.end()


def _free(bounds: tuple[int, int], modules: tuple[str, ...]) -> Worker | None:
    """A process of these bounds that waits for a call, or soon will; ``None`` where the call is to start one.

    One that has not imported what the call needs is ended: the fork server imports it once for all, and a fork costs
    less than another import.
    """
    with _lock:
        if _calls[bounds]:
            _lock.wait_for(lambda: any(worker.bounds == bounds for worker in _idle), SOON)
        _calls[bounds] += 1
        same = [worker for worker in _idle if worker.bounds == bounds]
        found = next((worker for worker in same if worker.modules.issuperset(modules)), None)
        taken = found or next(iter(same), None)
        if taken is not None:
            _idle.remove(taken)
    if found is not None and found.alive:
        return found
    if taken is not None:
        taken.end()
    return None


@atexit.register
def end_all() -> None:
    """End every process: calls that are running in other threads fail."""
    with _lock:
        workers = list(_idle)
        _idle.clear()
        for worker in _busy:
            worker.kill()
    for worker in workers:
        worker.end()
    fork_server.end()


def _forget() -> None:
    """In a fork of this process: their sockets belong to the parent."""
    global _lock
    _lock = threading.Condition()
    _calls.clear()
    _idle.clear()
    _busy.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
