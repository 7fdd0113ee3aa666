"""A process as the caller sees it: it is asked for what a function yields, each thing in bounded time."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from naflex_deploy.core.worker.channel import Message, WorkerError, pickled
from naflex_deploy.core.worker.fork_server import start

T = TypeVar("T")

START = 60.0
"""Seconds in which a process must have started and imported what it is to call."""


class Worker:
    """A process that runs one call at a time.

    Args:
        memory: Maximum number of bytes that it may allocate; enforced on Linux alone.
        nice: By how much its priority is lower.
        modules: Names of modules that it is to have imported where they are installed, for speed alone.
    """

    def __init__(self, memory: int, nice: int = 0, modules: tuple[str, ...] = ()) -> None:
        self.bounds = memory, nice
        self.modules = frozenset(modules)
        self._process = start(memory, nice, modules)
        self._channel = self._process.channel
        self._code: int | None = None
        self._ending = threading.Lock()

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
            kind, value = self._asked(pickled((function, arguments)), START)
            if kind == "begun":
                kind, value = self._asked(None, seconds)
            while kind == "item":
                yield value
                kind, value = self._asked(None, seconds)
            finished = True
            if kind == "error":
                raise value
        finally:
            if not finished:
                self.end()

    @property
    def alive(self) -> bool:
        return self._code is None and not self._channel.closed

    def kill(self) -> int:
        """Kill the process, and return its exit code; that of a signal is negative. A call in another thread fails."""
        with self._ending:
            if self._code is None:
                self._code = self._process.end()
            return self._code

    def end(self) -> int:
        """Like `kill`, where no call is running."""
        code = self.kill()
        self._channel.close()
        return code

    def _asked(self, request: Message | None, seconds: float) -> tuple[str, Any]:
        """Send a request, where there is one, and wait for the next answer."""
        try:
            if request is not None:
                self._channel.send(request, seconds)
            kind, value = self._channel.receive(seconds).value()
        except TimeoutError:
            raise TimeoutError(f"it took more than {seconds:g} s") from None
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise WorkerError(f"its process ended with {self.kill()}") from error
        return kind, value
