"""Async variants of methods that compute."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
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


def step_by_step(method: Callable[P, Iterator[R]]) -> Callable[P, AsyncIterator[R]]:
    """The same iterator for ``async for``: each step runs in a thread, so that an event loop goes on meanwhile.

    Nothing is computed ahead of what is asked for, except for what the method itself prepares.
    """

    @wraps(method)
    async def run(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        import asyncio

        end = object()
        steps = method(*args, **kwargs)
        try:
            while (found := await asyncio.to_thread(next, steps, end)) is not end:
                yield found  # type: ignore[misc]
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                await asyncio.to_thread(close)

    run.__doc__ = f"`{method.__name__}` for ``async for``; each step runs in a thread."
    return run
