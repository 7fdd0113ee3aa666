"""What the routes of a server share: its models, its limits, and how a request is admitted and run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.types import Receive, Scope

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.runtime.scheduling.admission import ClosedError, QueueFullError
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http.infer import infer
from naflex_deploy.serving.http.keys import Keys
from naflex_deploy.serving.http.limits import Limits, Sent
from naflex_deploy.serving.http.metrics import Metrics
from naflex_deploy.serving.http.models import Model, Models
from naflex_deploy.serving.http.problems import Problem, problem_of
from naflex_deploy.serving.http.receive import Buffers

INLINE = 64 << 10
"""Bytes up to which a body is parsed, and an answer is written, on the event loop."""

R = TypeVar("R")


class Service:
    """One server's.

    Attributes:
        draining: Set when the server is about to stop: it is not ready and takes no more work.
    """

    def __init__(self, models: Models, limits: Limits, keys: Keys, metrics: Metrics) -> None:
        self.models, self.limits, self.keys, self.metrics = models, limits, keys, metrics
        self.buffers = Buffers(limits)
        self.draining = False

    def model(self, name: str | None) -> Model:
        try:
            return self.models.get(name)
        except NaflexError as error:
            raise Problem(404, "no_such_model", error.message, hint=error.hint) from None

    def check_ready(self, model: Model | None = None) -> None:
        """Turn a request away before its body is received: for a model, or where none has room."""
        if self.draining:
            raise Problem(503, "draining", "the server is shutting down", hint="use another one", retry_after=1)
        full: QueueFullError | None = None
        for candidate in [model] if model else self.models.all():
            try:
                candidate.scheduler.check(1, self.limits.deadline_seconds)
                return
            except ClosedError:  # replaced in this moment: `run` takes the new one
                return
            except QueueFullError as error:
                full = error
        if full is not None:
            raise problem_of(full)

    async def run(
        self, scope: Scope, receive: Receive, name: str, images: Sequence[Sent], outputs: Sequence[str], **options: Any
    ) -> tuple[Model, list[ImageOutcome]]:
        """Infer on the model that has the name now, and note it."""
        model = self.model(name)
        fields = scope["state"]["fields"]
        fields["model"], fields["images"] = model.name, len(images)
        try:
            served = await infer(receive, model, images, outputs, self.limits, **options)
        except Problem as problem:
            # Replaced in this moment: the one that was closed took none of these images, or gave them back.
            if problem.reason != "draining" or self.model(name) is model:
                raise
            return await self.run(scope, receive, name, images, outputs, **options)
        fields["tokens"] = sum(item.grid_hw[0] * item.grid_hw[1] for item in served)
        self.metrics.decoded(model.name, served)
        return model, served


async def work(size: int, function: Callable[..., R], *args: Any) -> R:
    """Call a function whose time goes with a size in bytes, off the event loop where that is large."""
    if size <= INLINE:
        return function(*args)
    return await asyncio.to_thread(function, *args)
