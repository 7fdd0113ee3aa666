"""The methods of the protocol, on the same models, queues, limits, keys, log and metrics as those of HTTP."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.types import Message

import naflex_deploy
from naflex_deploy.core.errors import NaflexError
from naflex_deploy.serving.grpc.messages import answer_of, inference_of, metadata_of
from naflex_deploy.serving.http import oip
from naflex_deploy.serving.http.gate import log
from naflex_deploy.serving.http.problems import Problem, problem_of
from naflex_deploy.serving.http.service import Service, work

STATUS = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""gRPC's name of each HTTP status; ``INVALID_ARGUMENT`` for others."""

OPEN = frozenset({"ServerLive", "ServerReady"})
"""Methods that need no key."""


def servicer(service: Service, pb: Any, base: type[Any], codes: Any) -> Any:
    """The methods as a class of the generated code.

    Args:
        service: What they share with HTTP.
        pb: Module of the messages.
        base: ``GRPCInferenceServiceServicer``, which answers other methods as not implemented.
        codes: ``grpc.StatusCode``.
    """
    calls = _Calls(service, codes)

    class Servicer(base):  # type: ignore[misc]
        async def ServerLive(self, request: Any, context: Any) -> Any:
            return pb.ServerLiveResponse(live=True)

        async def ServerReady(self, request: Any, context: Any) -> Any:
            return pb.ServerReadyResponse(ready=not service.draining)

        async def ModelReady(self, request: Any, context: Any) -> Any:
            async def answer(fields: dict[str, Any]) -> Any:
                service.model(request.name)
                return pb.ModelReadyResponse(ready=not service.draining)

            return await calls.answered("ModelReady", context, answer)

        async def ServerMetadata(self, request: Any, context: Any) -> Any:
            async def answer(fields: dict[str, Any]) -> Any:
                version = naflex_deploy.__version__
                return pb.ServerMetadataResponse(name="naflex-deploy", version=version, extensions=["model_repository"])

            return await calls.answered("ServerMetadata", context, answer)

        async def ModelMetadata(self, request: Any, context: Any) -> Any:
            async def answer(fields: dict[str, Any]) -> Any:
                return metadata_of(pb, service.model(request.name))

            return await calls.answered("ModelMetadata", context, answer)

        async def RepositoryIndex(self, request: Any, context: Any) -> Any:
            async def answer(fields: dict[str, Any]) -> Any:
                found = pb.RepositoryIndexResponse()
                for model in service.models.all():
                    found.models.add(name=model.name, version=oip.VERSION, state="READY")
                return found

            return await calls.answered("RepositoryIndex", context, answer)

        async def ModelInfer(self, request: Any, context: Any) -> Any:
            async def answer(fields: dict[str, Any]) -> Any:
                return await self._infer(request, context, fields)

            return await calls.answered("ModelInfer", context, answer)

        async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                try:

                    async def answer(fields: dict[str, Any], request: Any = request) -> Any:
                        return await self._infer(request, context, fields)

                    found = pb.ModelStreamInferResponse(
                        infer_response=await calls.run("ModelStreamInfer", context, answer)
                    )
                except Problem as problem:
                    found = pb.ModelStreamInferResponse(error_message=str(problem))
                    found.infer_response.id = request.id
                yield found

        async def _infer(self, request: Any, context: Any, fields: dict[str, Any]) -> Any:
            model = service.model(request.model_name)
            service.check_ready(model)
            if request.model_version not in ("", oip.VERSION):
                raise Problem(404, "no_such_model", f"'{model.name}' has version {oip.VERSION} only")
            size, client = request.ByteSize(), context.peer().rpartition(":")[0]
            if not service.buffers.room.take(client, size):
                raise Problem(429, "buffers_full", "the server has no room for another request", retry_after=1)
            try:
                inference = await work(size, inference_of, request, model, service.limits)
                left = context.time_remaining()
                limits = [seconds for seconds in (inference.seconds, left) if seconds]
                model, served = await service.run(
                    {"state": {"fields": fields}},
                    _never,
                    model.name,
                    inference.images,
                    inference.wanted,
                    seconds=min(limits, default=None),
                    priority=inference.priority,
                )
                found = sum(values.nbytes for item in served for values in item.outputs.values())
                return await work(found, answer_of, pb, inference, model, served)
            finally:
                service.buffers.room.give_back(client, size)

    return Servicer()


async def _never() -> Message:
    """Report no disconnect: a call whose client leaves is cancelled."""
    waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await waiting


class _Calls:
    """Keys, ids, the log and metrics of every call."""

    def __init__(self, service: Service, codes: Any) -> None:
        self._service, self._codes = service, codes
        self._prefix, self._number = secrets.token_hex(12), itertools.count()

    async def answered(self, method: str, context: Any, answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> Any:
        """The answer to a call, or its end with a status."""
        try:
            return await self.run(method, context, answer)
        except Problem as problem:
            code = getattr(self._codes, STATUS.get(problem.status, "INVALID_ARGUMENT"))
            trailing = [("error-type", problem.reason), *problem.headers().items()]
            context.set_trailing_metadata(tuple(trailing))
            await context.abort(code, str(problem))

    async def run(self, method: str, context: Any, answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> Any:
        """The answer to a call.

        Raises:
            Problem: It failed.
        """
        started, status = time.perf_counter(), 499
        headers = {name.encode(): _bytes(value) for name, value in context.invocation_metadata() or ()}
        fields: dict[str, Any] = {"request_id": f"{self._prefix}{next(self._number):08x}", "method": method}
        try:
            if self._service.keys and not self._service.keys.accept(headers):
                raise Problem(401, "no_key", "expected a valid API key", hint="send authorization: Bearer KEY")
            found = await answer(fields)
            status = 200
            return found
        except Exception as error:
            if not isinstance(error, NaflexError):
                log.exception("failed", extra={"fields": {"request_id": fields["request_id"]}})
            problem = problem_of(error)
            status, fields["reason"], fields["message"] = problem.status, problem.reason, problem.message
            raise problem from error
        finally:
            self._note(method, status, time.perf_counter() - started, fields)

    def _note(self, method: str, status: int, seconds: float, fields: dict[str, Any]) -> None:
        metrics, route = self._service.metrics, f"grpc {method}"
        metrics.requests.labels(route, status).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        if "reason" in fields:
            metrics.rejections.labels(fields["reason"]).inc()
        level = logging.ERROR if status == 500 else logging.INFO
        log.log(level, "request", extra={"fields": {**fields, "status": status, "ms": round(1000 * seconds, 2)}})


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1", "replace")
