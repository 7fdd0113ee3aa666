"""Async variants of methods that compute."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def in_thread(method: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same method as a coroutine, which runs in a thread, so that an event loop goes on meanwhile.

    A task that is cancelled stops waiting; the thread finishes what it computes.
    """

    @wraps(method)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        import asyncio

        return await asyncio.to_thread(method, *args, **kwargs)

    run.__doc__ = f"`{method.__name__}` as a coroutine, which runs in a thread."
    return run
