"""From images of a request to results, while its sender waits."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.results.result import Result, join
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.runtime.scheduling.scheduler import Work
from naflex_deploy.serving.http.limits import Limits, Sent
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem, problem_of
from naflex_deploy.serving.http.receive import left

PATIENCE = 0.02
"""Seconds after which a request begins to look whether its sender is still there; most are answered before."""

Frame = list[tuple[Result, Patches]]

INLINE = 64 << 10
"""Bytes of pixels up to which the event loop cuts a raw tensor into patches itself."""


async def infer(
    receive: Receive,
    model: Model,
    images: Sequence[Sent],
    outputs: Sequence[str],
    limits: Limits,
    *,
    seconds: float | None = None,
    priority: int = 0,
) -> list[ImageOutcome]:
    """Run images and wait for all of them.

    Args:
        receive: Of the request, whose sender may leave, which takes its images out of the queue.
        seconds: That the sender allows, if less than the server.
        priority: See `Scheduler.submit`.

    Raises:
        Problem: Of the first image that failed, or of the queue.
        ClientDisconnect: The sender left.
    """
    allowed = min(seconds or math.inf, limits.deadline_seconds)
    deadline = time.monotonic() + allowed
    try:
        model.scheduler.check(len(images), allowed)
        frames = await _frames(model, images, limits) if model.tiled else None
        works = [_work(model, image, limits) for image in images] if frames is None else _patches(frames)
        futures = model.scheduler.submit(
            works, outputs, tokens=model.image_tokens, deadline=deadline, priority=priority
        )
    except Exception as error:
        raise problem_of(error) from error
    await _all_done(futures, receive, allowed)
    owners = range(len(images)) if frames is None else [n for n, frame in enumerate(frames) for _ in frame]
    for index, future in zip(owners, futures, strict=True):
        failure = future.exception()
        if failure is not None:
            raise problem_of(failure, f"input[{index}]") from failure
    served = [future.result() for future in futures]
    return served if frames is None else _joined(frames, served)


def _work(model: Model, image: Sent, limits: Limits) -> Work:
    """A small tensor costs less to cut into patches than to hand to another thread."""
    work = model.work(image, limits)
    return work() if isinstance(image, np.ndarray) and image.nbytes <= INLINE else work


async def _frames(model: Model, images: Sequence[Sent], limits: Limits) -> list[Frame]:
    """Images of which some become several: how many is known when they are decoded."""
    work = [asyncio.to_thread(model.frame, image, limits) for image in images]
    frames = await asyncio.gather(*work, return_exceptions=True)
    for index, frame in enumerate(frames):
        if isinstance(frame, BaseException):
            raise problem_of(frame, f"input[{index}]") from frame
    return [frame for frame in frames if not isinstance(frame, BaseException)]


def _patches(frames: Sequence[Frame]) -> list[Work]:
    return [patches for frame in frames for _, patches in frame]


def _joined(frames: Sequence[Frame], served: Sequence[ImageOutcome]) -> list[ImageOutcome]:
    """One answer an image from those of the whole and its tiles."""
    rest = iter(served)
    found = []
    for frame in frames:
        parts = [(result, next(rest)) for result, _ in frame]
        whole = join([replace(result, outputs=part.outputs) for result, part in parts])
        tokens = [values for name, values in whole.outputs.items() if name.startswith("tokens")]
        grid = tokens[0].shape[:2] if tokens else whole.grid_hw
        found.append(replace(parts[0][1], outputs=whole.outputs, grid_hw=(grid[0], grid[1])))
    return found


async def _all_done(futures: Sequence[Future[ImageOutcome]], receive: Receive, allowed: float) -> None:
    """Wait for all, or cancel them."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    _when_all_done(futures, lambda: loop.call_soon_threadsafe(_resolve, done))
    leaving: asyncio.Future[None] | None = None
    try:
        await asyncio.wait([done], timeout=PATIENCE)
        if not done.done():
            leaving = asyncio.ensure_future(left(receive))
            # The scheduler keeps the deadline; the margin is for an engine that hangs.
            limit = allowed + 0.05 - PATIENCE
            await asyncio.wait([done, leaving], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in futures:
            future.cancel()
        if leaving:
            leaving.cancel()
    if not done.done():
        if leaving and leaving.done():
            raise ClientDisconnect
        raise Problem(504, "deadline", f"not answered within {allowed:g} s", hint="allow more time")


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _when_all_done(futures: Sequence[Future[ImageOutcome]], call: Callable[[], object]) -> None:
    """Call once, from whichever thread answers last: one wake-up of the event loop for a request."""
    lock = threading.Lock()
    left_open = len(futures)

    def one_done(_: Future[ImageOutcome]) -> None:
        nonlocal left_open
        with lock:
            left_open -= 1
            last = not left_open
        if last:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                call()

    for future in futures:
        future.add_done_callback(one_done)
