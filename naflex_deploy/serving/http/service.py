"""What the routes share: models, limits, and the way in which a request is admitted and run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from starlette.types import Receive, Scope

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.runtime.scheduling.admission import ClosedError, QueueFullError
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http.infer import infer
from naflex_deploy.serving.http.keys import Keys
from naflex_deploy.serving.http.limits import Limits, Sent
from naflex_deploy.serving.http.logs.traces import Traces
from naflex_deploy.serving.http.metrics import Metrics
from naflex_deploy.serving.http.models import Model, Models
from naflex_deploy.serving.http.problems import Problem, problem_of
from naflex_deploy.serving.http.receiving.body import Buffers

INLINE = 64 << 10
"""Largest body, in bytes, that is parsed or written on the event loop instead of in another thread."""

LARGE = 1 << 20
"""Bytes above which one body is processed after another, as each thread that computes keeps the event loop waiting."""

R = TypeVar("R")

_one_at_a_time = ThreadPoolExecutor(1, "large")


class Service:
    """The shared state of one server.

    Attributes:
        draining: Whether the server is about to stop. It is then not ready and accepts no more requests.
    """

    def __init__(
        self, models: Models, limits: Limits, keys: Keys, metrics: Metrics, traces: Traces | None = None
    ) -> None:
        self.models, self.limits, self.keys, self.metrics, self.traces = models, limits, keys, metrics, traces
        self.buffers = Buffers(limits)
        self.draining = False
        self._reloads: dict[str, asyncio.Task[None]] = {}
        self._one_reload = asyncio.Lock()

    def model(self, name: str | None) -> Model:
        try:
            return self.models.get(name)
        except NaflexError as error:
            raise Problem(404, "no_such_model", error.message, hint=error.hint) from None

    async def reload(self, name: str) -> None:
        """Load a model again. Whoever asks while a reload runs shares the next one, which reads what is there then.

        Raises:
            Problem: There is no such model.
            NaflexError: The bundle cannot be loaded; the old model stays.
        """
        self.model(name)
        if name not in self._reloads:
            self._reloads[name] = asyncio.create_task(self._reload(name))
        await asyncio.shield(self._reloads[name])

    async def _reload(self, name: str) -> None:
        async with self._one_reload:
            del self._reloads[name]
            await asyncio.to_thread(self.models.reload, name)

    def check_ready(self, model: Model | None = None) -> None:
        """Refuse a request before its body is received, where its model, or every model, has no room."""
        if self.draining:
            raise Problem(503, "draining", "the server is shutting down", hint="use another server", retry_after=1)
        full: QueueFullError | None = None
        for candidate in [model] if model else self.models.all():
            try:
                candidate.scheduler.check(1, self.limits.goal())
                return
            except ClosedError:  # the model has just been replaced, and `run` takes the new one
                return
            except QueueFullError as error:
                full = error
        if full is not None:
            raise problem_of(full)

    async def run(
        self, scope: Scope, receive: Receive, name: str, images: Sequence[Sent], outputs: Sequence[str], **options: Any
    ) -> tuple[Model, list[ImageOutcome]]:
        """Run images on the model that has this name now, and record what ran."""
        fields = scope["state"]["fields"]
        fields["model"], fields["images"] = name, len(images)
        model, served = await self.on_model(
            name, lambda model: infer(receive, model, images, outputs, self.limits, **options)
        )
        fields["tokens"] = sum(item.grid_hw[0] * item.grid_hw[1] for item in served)
        self.note(scope, model.name, served)
        return model, served

    def note(self, scope: Scope, name: str, served: list[ImageOutcome]) -> None:
        """Record the stages of what ran in metrics, and in the trace of its request where there is one."""
        self.metrics.decoded(name, served)
        if self.traces is not None and "span" in scope["state"]:
            self.traces.note_stages(scope["state"]["span"], served)

    async def on_model(self, name: str, run: Callable[[Model], Awaitable[R]]) -> tuple[Model, R]:
        """Run something on the model that has this name now; again, where that has just been replaced."""
        model = self.model(name)
        try:
            return model, await run(model)
        except Problem as problem:
            # The closed model did not admit it, or failed it unanswered.
            if problem.reason != "draining" or self.model(name) is model:
                raise
            return await self.on_model(name, run)


async def work(size: int, function: Callable[..., R], *args: Any) -> R:
    """Call a function, in another thread where ``size``, the number of bytes that it processes, is large."""
    if size <= INLINE:
        return function(*args)
    pool = _one_at_a_time if size > LARGE else None
    return await asyncio.get_running_loop().run_in_executor(pool, partial(function, *args))
