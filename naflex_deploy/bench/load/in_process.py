"""Runs a bundle as a server does: images are decoded in a pool and packed by the scheduler, with a bounded queue."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from naflex_deploy.bench.load.load import Status
from naflex_deploy.bench.load.measure import Report, Step, measure_open_loop
from naflex_deploy.bench.load.stopping import Stopping
from naflex_deploy.bench.load.subject import Subject
from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.images.source import Source
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.scheduling.admission import QueueFullError
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.runtime.scheduling.queue import DeadlineError, Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler


class InProcess:
    """Sends images to a scheduler in turn; `send` is a `load.Send`.

    Args:
        subject: The engine that runs the packs.
        sources: Images, which are sent in turn.
        policy: Policy of the scheduler: when packs are dispatched, and how much may wait.
        goal: Seconds within which an image should be answered; one that would wait longer is refused.
    """

    def __init__(
        self, subject: Subject, sources: Sequence[Source], policy: Policy | None = None, goal: float = math.inf
    ) -> None:
        manifest = subject.manifest
        self._sources, self._outputs, self._goal = sources, subject.outputs, goal
        self._prepare = Preparer.of(manifest, subject.variant)
        self._tokens = manifest.config.image_tokens(subject.variant.backend, manifest.model.prefix)
        self._scheduler = Scheduler(
            subject.session,
            budget=subject.variant.budgets[-1],
            max_images=manifest.config.max_images(subject.variant.backend),
            prefix=manifest.model.prefix,
            policy=policy,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._scheduler.close(0)

    def send(self, number: int, done: Callable[[Status], None]) -> None:
        """Submit an image; a queue that is full, or too long for the goal, refuses it at once."""
        work = partial(self._patches, self._sources[number % len(self._sources)])
        try:
            goal = time.monotonic() + self._goal
            (future,) = self._scheduler.submit([work], self._outputs, tokens=self._tokens, goal=goal)
        except QueueFullError:
            done("rejected")
            return
        future.add_done_callback(lambda future: done(_status(future)))

    def _patches(self, source: Source) -> Patches:
        prepared, *_ = next(self._prepare(0, source))
        if prepared.patches is None:
            raise prepared.result.error or ImageError("expected an image, found none")
        return prepared.patches


def _status(future: Future[ImageOutcome]) -> Status:
    error = future.exception()
    if error is None:
        return "ok"
    return "late" if isinstance(error, DeadlineError) else "error"


def measure_in_process(
    subject: Subject,
    sources: Sequence[Source],
    rates: Sequence[float],
    slo: float,
    stopping: Stopping,
    seed: int,
    report: Report,
) -> list[Step]:
    """Measure the open loop in process, with the scheduler that servers use, without and with the goal ``slo``."""
    steps: list[Step] = []
    for goal in (math.inf, slo):
        with InProcess(subject, sources, goal=goal) as target:
            found = measure_open_loop(target.send, rates, slo, stopping, seed, report)
        steps += [replace(step, goal_known=goal == slo) for step in found]
    return steps
