"""From images of a request to results, while its sender waits."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from starlette.requests import ClientDisconnect, Request

from naflex_deploy.runtime.scheduler import Served
from naflex_deploy.serving.limits import Limits, Sent
from naflex_deploy.serving.models import Model
from naflex_deploy.serving.problems import Problem, problem_of
from naflex_deploy.serving.receive import left


async def infer(
    request: Request,
    model: Model,
    images: Sequence[Sent],
    outputs: Sequence[str],
    limits: Limits,
    *,
    seconds: float | None = None,
    priority: int = 0,
) -> list[Served]:
    """Run images and wait for all of them.

    Args:
        request: Whose sender may leave, which takes its images out of the queue.
        seconds: That the sender allows, if less than the server.
        priority: See `Scheduler.submit`.

    Raises:
        Problem: Of the first image that failed, or of the queue.
        ClientDisconnect: The sender left.
    """
    allowed = min(seconds or math.inf, limits.deadline_seconds)
    try:
        futures = model.scheduler.submit(
            [model.work(image, limits) for image in images],
            outputs,
            tokens=model.image_tokens,
            deadline=time.monotonic() + allowed,
            priority=priority,
        )
    except Exception as error:
        raise problem_of(error) from error
    done = asyncio.ensure_future(_all_done(futures))
    leaving = asyncio.ensure_future(left(request))
    try:
        # The scheduler keeps the deadline; the margin is for an engine that hangs.
        await asyncio.wait((done, leaving), timeout=allowed + 0.05, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            if leaving.done():
                raise ClientDisconnect
            raise Problem(504, "deadline", f"not answered within {allowed:g} s", hint="allow more time")
    finally:
        leaving.cancel()
        done.cancel()
        for future in futures:
            future.cancel()
    for index, future in enumerate(futures):
        failure = future.exception()
        if failure is not None:
            raise problem_of(failure, f"input[{index}]") from failure
    return [future.result() for future in futures]


async def _all_done(futures: Sequence[Future[Served]]) -> None:
    """One wake-up of the event loop for all futures of a request."""
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()
    lock = threading.Lock()
    open_futures = len(futures)

    def one_done(_: Future[Served]) -> None:
        nonlocal open_futures
        with lock:
            open_futures -= 1
            last = not open_futures
        if last and not loop.is_closed():
            loop.call_soon_threadsafe(finished.set)

    for future in futures:
        future.add_done_callback(one_done)
    await finished.wait()
