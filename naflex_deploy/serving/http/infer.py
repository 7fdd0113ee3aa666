"""Run the images of a request while its sender waits."""

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

from naflex_deploy.core.pack import Patches, in_blocks
from naflex_deploy.runtime.results.result import join
from naflex_deploy.runtime.scheduling.decoders import Apart, Work
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http.limits import Limits, Sent
from naflex_deploy.serving.http.models import Frame, Model
from naflex_deploy.serving.http.problems import Problem, problem_of
from naflex_deploy.serving.http.receiving.body import left

PATIENCE = 0.02
"""Seconds after which a request starts to check whether its sender has left; most are answered earlier."""

INLINE = 64 << 10
"""Bytes of raw tensors of one request that are cut into patches on the event loop instead of in another thread."""


async def infer(
    receive: Receive,
    model: Model,
    images: Sequence[Sent | Frame],
    outputs: Sequence[str],
    limits: Limits,
    *,
    seconds: float | None = None,
    priority: int = 0,
    places: Sequence[str] = (),
) -> list[ImageOutcome]:
    """Run images and wait for all of them.

    Args:
        receive: ASGI receive function of the request. If its sender leaves, its images are taken out of the queue.
        seconds: Time that the sender allows, where it is less than the server's limit.
        images: Encoded files, pixels, or frames that are prepared already.
        priority: See `Scheduler.submit`.
        places: Where each image stands in the request. Default: ``input[0]`` and so on.

    Raises:
        Problem: The first image that failed, or the queue, caused an error.
        ClientDisconnect: The sender left.
    """
    allowed = min(seconds or math.inf, limits.deadline_seconds)
    now = time.monotonic()
    goal = limits.goal(seconds)
    deadline = now + allowed
    try:
        model.scheduler.check(len(images), goal, len(images))
        sent = [image for image in images if not isinstance(image, list)]
        whole = len(sent) == len(images) and not model.tiled
        frames = None if whole else await _frames(model, images, limits, deadline, places)
        works = _works(model, sent, limits, deadline) if frames is None else _patches(frames)
        futures = model.scheduler.submit(
            works, outputs, tokens=model.image_tokens, deadline=deadline, goal=now + goal, priority=priority
        )
    except Exception as error:
        raise problem_of(error) from error
    await _all_done(futures, receive, allowed)
    owners = range(len(images)) if frames is None else [n for n, frame in enumerate(frames) for _ in frame]
    for index, future in zip(owners, futures, strict=True):
        failure = future.exception()
        if failure is not None:
            raise problem_of(failure, _place(places, index)) from failure
    served = [future.result() for future in futures]
    return served if frames is None else _joined(frames, served)


def _works(model: Model, images: Sequence[Sent], limits: Limits, deadline: float) -> list[Work]:
    """Cut small tensors into patches at once, because handing them to another thread would cost more."""
    works = [model.work(image, limits, deadline) for image in images]
    sizes = [image.nbytes for image in images if isinstance(image, np.ndarray)]
    if model.enlarges or len(sizes) < len(images) or sum(sizes) > INLINE:
        return [*works]
    patches: list[Work] = []
    for work in works:
        cut = work()
        assert isinstance(cut, Patches)  # as a tensor needs no decoding
        patches.append(cut)
    return patches


def _place(places: Sequence[str], index: int) -> str:
    return places[index] if places else f"input[{index}]"


async def _frames(
    model: Model, images: Sequence[Sent | Frame], limits: Limits, deadline: float, places: Sequence[str]
) -> list[Frame]:
    """Decode images that may be cut into tiles, because only then is the number of tiles known."""
    work = [_frame(model, image, limits, deadline) for image in images]
    frames = await asyncio.gather(*work, return_exceptions=True)
    for index, frame in enumerate(frames):
        if isinstance(frame, BaseException):
            raise problem_of(frame, _place(places, index)) from frame
    return [frame for frame in frames if not isinstance(frame, BaseException)]


async def _frame(model: Model, image: Sent | Frame, limits: Limits, deadline: float) -> Frame:
    if isinstance(image, list):
        return image
    decoders = model.scheduler.decoders
    found = await asyncio.wrap_future(decoders.submit(model.frame, image, limits, deadline))
    if isinstance(found, Apart):
        frame: Frame = await asyncio.wrap_future(decoders.submit_apart(found.rest))
        return frame
    return found


def _patches(frames: Sequence[Frame]) -> list[Work]:
    return [patches for frame in frames for _, patches in frame]


def _joined(frames: Sequence[Frame], served: Sequence[ImageOutcome]) -> list[ImageOutcome]:
    """Join the results of each image and its tiles into one result per image."""
    rest = iter(served)
    found = []
    for frame in frames:
        parts = [(result, next(rest)) for result, _ in frame]
        images = [replace(result, outputs=part.outputs) for result, part in parts]
        whole = join(images)
        tokens = [values for name, values in whole.outputs.items() if name.startswith("tokens")]
        grid = tokens[0].shape[:2] if tokens else whole.grid_hw
        ordered = [*images[1:], images[0]]
        for_language = {
            name: np.concatenate([part.outputs[name].reshape(-1, values.shape[-1]) for part in ordered])[None]
            for name, values in whole.outputs.items()
            if in_blocks(name)
        }
        found.append(
            replace(
                parts[0][1],
                outputs=whole.outputs | for_language,
                grid_hw=(grid[0], grid[1]),
                parts=tuple(part.grid_hw for part in ordered),
            )
        )
    return found


async def _all_done(futures: Sequence[Future[ImageOutcome]], receive: Receive, allowed: float) -> None:
    """Wait until all futures are done. Cancel them where the time is up or the sender leaves."""
    loop = asyncio.get_running_loop()
    waiting = Waiting(loop)
    _when_all_done(futures, lambda: loop.call_soon_threadsafe(waiting.end))
    leaving: asyncio.Future[None] | None = None
    try:
        await waiting.at_most(PATIENCE)
        if not waiting.ended:
            leaving = asyncio.ensure_future(left(receive))
            leaving.add_done_callback(waiting.wake)
            # The scheduler enforces the deadline; this later limit is for an engine that hangs.
            await waiting.at_most(allowed + 0.05 - PATIENCE)
    finally:
        for future in futures:
            future.cancel()
        if leaving:
            leaving.cancel()
    if not waiting.ended:
        if leaving and leaving.done():
            raise ClientDisconnect
        raise Problem(504, "deadline", f"the request was not answered within {allowed:g} s", hint="allow more time")


class Waiting:
    """A wait for one end, again and again, each time for a while. `asyncio.wait` takes several times as long.

    Attributes:
        ended: Whether the end has come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.ended = loop, False
        self._woken: asyncio.Future[None] | None = None

    async def at_most(self, seconds: float) -> None:
        """Wait until the end, `wake`, or so many seconds have passed."""
        if self.ended:
            return
        self._woken = self._loop.create_future()
        timer = self._loop.call_later(seconds, self.wake)
        try:
            await self._woken
        finally:
            timer.cancel()

    def end(self) -> None:
        self.ended = True
        self.wake()

    def wake(self, _: object = None) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


def _when_all_done(futures: Sequence[Future[ImageOutcome]], call: Callable[[], object]) -> None:
    """Call ``call`` once, from the thread that answers last, so that a request wakes the event loop only once."""
    lock = threading.Lock()
    left_open = len(futures)

    def one_done(_: Future[ImageOutcome]) -> None:
        nonlocal left_open
        with lock:
            left_open -= 1
            last = not left_open
        if last:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                call()

    for future in futures:
        future.add_done_callback(one_done)
