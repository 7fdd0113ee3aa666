"""Threads that decode images, and others for images whose reader may take long."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from naflex_deploy.core.machine import cores
from naflex_deploy.core.pack import Patches

T = TypeVar("T")


@dataclass(frozen=True)
class Apart:
    """The rest of some decoding that may take long. It runs in threads of its own, so that other images do not wait."""

    rest: Callable[[], Any]


Work = Patches | Callable[[], Patches | Apart]


class Decoders:
    """Two pools of threads, one per core each.

    Args:
        pool: Takes the place of the first.
    """

    def __init__(self, pool: Executor | None = None) -> None:
        self._own = pool is None
        self._pool = pool or ThreadPoolExecutor(cores(), "decode")
        self._apart = ThreadPoolExecutor(cores(), "decode-apart")

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a function that takes a bounded time."""
        return self._pool.submit(function, *arguments)

    def submit_apart(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a function that may take long."""
        return self._apart.submit(function, *arguments)

    def shutdown(self) -> None:
        """End the threads, once they have nothing to do."""
        self._apart.shutdown(wait=False, cancel_futures=True)
        if self._own:
            self._pool.shutdown(wait=False, cancel_futures=True)
