"""The methods of the protocol, on the same models, queues, limits, keys, log and metrics as those of HTTP.

Every method is served as a stream of bytes, which on the wire is the same as a call with one message: a message is not
received before there is room for it, nor decoded before it is known to be cheap, and its answer keeps the room until it
is sent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import Message

import naflex_deploy
from naflex_deploy.core.errors import NaflexError
from naflex_deploy.serving.grpc.messages import answer_of, inference_of, metadata_of
from naflex_deploy.serving.grpc.wire import check_message
from naflex_deploy.serving.http import oip
from naflex_deploy.serving.http.gate import log
from naflex_deploy.serving.http.problems import Problem, problem_of
from naflex_deploy.serving.http.receiving.body import Share, no_room
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

WRITE_SECONDS = 30.0
"""Seconds after which a call whose client reads nothing of its answer is ended."""

COPIES = 2
"""Of a message: as bytes, and decoded."""

Answer = Callable[[Any, Any, dict[str, Any]], Awaitable[Any]]
"""Takes a message, the context of its call and fields of the log, and gives the message that answers it."""


@dataclass(frozen=True)
class Method:
    """A method of the protocol.

    Attributes:
        name: Of the method.
        answer: Answers a message.
        kind: Class of the message; ``None`` where it holds nothing, so that it is not received.
        open: Whether it needs no key.
        runs: Whether it runs a model, so that a full queue refuses its message before it is received.
        streams: Whether a call has several messages.
    """

    name: str
    answer: Answer
    kind: Any = None
    open: bool = False
    runs: bool = False
    streams: bool = False


def handlers(service: Service, pb: Any, grpc: Any) -> Any:
    """What a server of gRPC calls.

    Args:
        service: What the methods share with HTTP.
        pb: Module of the messages.
        grpc: The library.
    """

    async def live(request: Any, context: Any, fields: dict[str, Any]) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ready(request: Any, context: Any, fields: dict[str, Any]) -> Any:
        return pb.ServerReadyResponse(ready=not service.draining)

    async def model_ready(request: Any, context: Any, fields: dict[str, Any]) -> Any:
        service.model(request.name)
        return pb.ModelReadyResponse(ready=not service.draining)

    async def metadata(request: Any, context: Any, fields: dict[str, Any]) -> Any:
        version = naflex_deploy.__version__
        return pb.ServerMetadataResponse(name="naflex-deploy", version=version, extensions=["model_repository"])

    async def model_metadata(request: Any, context: Any, fields: dict[str, Any]) -> Any:
        return metadata_of(pb, service.model(request.name))

    async def index(request: Any, context: Any, fields: dict[str, Any]) -> Any:
        found = pb.RepositoryIndexResponse()
        for model in service.models.all():
            found.models.add(name=model.name, version=oip.VERSION, state="READY")
        return found

    async def infer(request: Any, context: Any, fields: dict[str, Any]) -> Any:
        return await _infer(service, pb, request, context, fields)

    async def stream(request: Any, context: Any, fields: dict[str, Any]) -> Any:
        return pb.ModelStreamInferResponse(infer_response=await infer(request, context, fields))

    methods = (
        Method("ServerLive", live, open=True),
        Method("ServerReady", ready, open=True),
        Method("ModelReady", model_ready, pb.ModelReadyRequest),
        Method("ServerMetadata", metadata),
        Method("ModelMetadata", model_metadata, pb.ModelMetadataRequest),
        Method("RepositoryIndex", index),
        Method("ModelInfer", infer, pb.ModelInferRequest, runs=True),
        Method("ModelStreamInfer", stream, pb.ModelInferRequest, streams=True),
    )
    calls = _Calls(service, pb, grpc.StatusCode)
    name = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
    found = {method.name: grpc.stream_stream_rpc_method_handler(partial(calls.serve, method)) for method in methods}
    return grpc.method_handlers_generic_handler(name, found)


async def _infer(service: Service, pb: Any, request: Any, context: Any, fields: dict[str, Any]) -> Any:
    model = service.model(request.model_name)
    service.check_ready(model)
    if request.model_version not in ("", oip.VERSION):
        raise Problem(404, "no_such_model", f"'{model.name}' has version {oip.VERSION} only")
    inference = await work(request.ByteSize(), inference_of, request, model, service.limits)
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


async def _never() -> Message:
    """Report no disconnect: a call whose client leaves is cancelled."""
    waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await waiting


class _Calls:
    """Room, keys, ids, the log and metrics of every call."""

    def __init__(self, service: Service, pb: Any, codes: Any) -> None:
        self._service, self._pb, self._codes = service, pb, codes
        self._prefix, self._number = secrets.token_hex(12), itertools.count()

    async def serve(self, method: Method, messages: AsyncIterator[bytes], context: Any) -> None:
        """Answer each message of a call, or end it with a status."""
        headers = {name.encode(): _bytes(value) for name, value in context.invocation_metadata() or ()}
        address = context.peer().partition(":")[2].rpartition(":")[0]
        share = Share(self._service.buffers.room, self._service.keys.client({"client": (address,)}, headers))
        trailing: tuple[tuple[str, str], ...] = ()
        try:
            while (answer := await self._next(method, messages, context, headers, share)) is not None:
                answer = await work(answer.ByteSize(), answer.SerializeToString)
                async with asyncio.timeout(WRITE_SECONDS):
                    await context.write(answer)
                share.keep(0)
                if not method.streams:
                    break
            return
        except Problem as problem:
            code, said = STATUS.get(problem.status, "INVALID_ARGUMENT"), str(problem)
            trailing = (("error-type", problem.reason), *problem.headers().items())
        except TimeoutError:
            code, said = "DEADLINE_EXCEEDED", f"the answer was not read within {WRITE_SECONDS:g} s"
        finally:
            share.keep(0)
        # Out here, since gRPC keeps what it raises, and an error that is handled meanwhile would keep the message.
        context.set_trailing_metadata(trailing)
        await context.abort(getattr(self._codes, code), said)

    async def _next(
        self, method: Method, messages: AsyncIterator[bytes], context: Any, headers: Mapping[bytes, bytes], share: Share
    ) -> Any:
        """The answer to the next message; ``None`` where there is none.

        Raises:
            Problem: The call failed.
        """
        started, status, request = time.perf_counter(), 499, None
        fields: dict[str, Any] = {"request_id": f"{self._prefix}{next(self._number):08x}", "method": method.name}
        try:
            if self._service.keys and not method.open and not self._service.keys.accept(headers):
                raise Problem(401, "no_key", "expected a valid API key", hint="send authorization: Bearer KEY")
            if method.runs:
                self._service.check_ready()
            if method.kind is not None:
                request = await self._received(method, messages, share)
                if request is None:
                    status = 0
                    return None
                started = time.perf_counter()
            found = await method.answer(request, context, fields)
            status = 200
            return found
        except Exception as error:
            if not isinstance(error, NaflexError):
                log.exception("failed", extra={"fields": {"request_id": fields["request_id"]}})
            status = _noted(error, fields)
            if method.streams and request is not None:
                failed = self._pb.ModelStreamInferResponse(error_message=str(problem_of(error)))
                failed.infer_response.id = request.id
                return failed
            if isinstance(error, Problem):
                raise
            raise problem_of(error) from error
        finally:
            if status:
                self._note(method.name, status, time.perf_counter() - started, fields)

    async def _received(self, method: Method, messages: AsyncIterator[bytes], share: Share) -> Any:
        """The next message, for which there is room of the largest; ``None`` where the client has ended."""
        seconds = self._service.limits.receive_seconds
        try:
            async with asyncio.timeout(seconds):
                await share.wait_for(COPIES * self._service.limits.body_bytes)
        except TimeoutError:
            raise no_room() from None
        try:
            async with asyncio.timeout(None if method.streams else seconds):
                content = await anext(messages, None)
        except TimeoutError:
            raise Problem(408, "too_slow", f"the message did not arrive within {seconds:g} s") from None
        share.keep(0 if content is None else COPIES * len(content))
        return None if content is None else await work(len(content), _decoded, method.kind, content)

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


def _noted(error: Exception, fields: dict[str, Any]) -> int:
    """The status of a problem, which goes into the log.

    No variable of the caller may keep the problem, whose traceback keeps them, with the message, until garbage is
    collected.
    """
    problem = problem_of(error)
    fields["reason"], fields["message"] = problem.reason, problem.message
    return problem.status


def _decoded(kind: Any, content: bytes) -> Any:
    check_message(content)
    try:
        return kind.FromString(content)
    except Exception as error:  # protobuf's own, which is not imported here
        raise Problem(422, "bad_request", f"the message is damaged: {error}") from None
