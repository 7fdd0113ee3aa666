"""Wrap every request: give it an id, check its API key, log it and count it."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.serving.http.logs.traces import Traces, trace_of
from naflex_deploy.serving.http.problems import Problem, problem_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from naflex_deploy.serving.http.infer_route import InferRoute
    from naflex_deploy.serving.http.service import Service

log = logging.getLogger("naflex_deploy.serving")

HEALTH = frozenset({"/health", "/v2/health/live", "/v2/health/ready"})
OPEN = HEALTH | {"/", "/docs"}
"""Paths that need no key: the page, which asks for one itself, what describes the routes, and checks of health."""

LEFT = 499
"""Status in logs and metrics of a request whose sender left before the answer."""

_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


class Gate:
    """The outermost ASGI layer.

    Args:
        app: Answers requests.
        infer: Answers requests to its own path, which bypass ``app``.
        service: The service that both belong to.
        traces: Takes the spans of requests.
    """

    def __init__(self, app: FastAPI, infer: InferRoute, service: Service, traces: Traces | None = None) -> None:
        self.app, self.service = app, service
        self._traces = traces
        self._infer, self._metrics = infer, service.metrics
        self._routes: dict[tuple[str, int], Any] = {}
        self._prefix, self._number = secrets.token_hex(12), itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, path, headers = time.perf_counter(), scope["path"], dict(scope["headers"])
        request_id = self._request_id(headers)
        # Handlers add fields to the request's line in the log.
        fields: dict[str, Any] = {"request_id": request_id, "method": scope["method"], "path": path}
        scope["state"] = state = {**scope.get("state", {}), "fields": fields}
        if b"traceparent" in headers:
            fields |= trace_of(headers)
        if self._traces is not None and path not in HEALTH:
            state["span"] = self._traces.start(scope["method"], headers)
            fields |= self._traces.ids(state["span"])
        status = LEFT

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        try:
            if self.service.keys and path not in OPEN and not self.service.keys.accept(headers):
                raise Problem(401, "no_key", "expected a valid API key", hint="send Authorization: Bearer KEY")
            await (self._infer if self._infer.takes(path) else self.app)(scope, receive, sending)
        except ClientDisconnect:
            fields["reason"] = "client_left"
        except Exception as error:
            if not isinstance(error, NaflexError):
                log.exception("failed", extra={"fields": {"request_id": request_id}})
            if status == LEFT:
                await answer(problem_of(error), scope)(scope, receive, sending)
        finally:
            self._note(scope, status, time.perf_counter() - started, fields)

    def _request_id(self, headers: Mapping[bytes, bytes]) -> str:
        """The request id that the sender gave, if it is safe to log, or a new one."""
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        return given if _REQUEST_ID.fullmatch(given) else f"{self._prefix}{next(self._number):08x}"

    def _note(self, scope: Scope, status: int, seconds: float, fields: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "other")
        if self._traces is not None and "span" in scope["state"]:
            self._traces.end(scope["state"]["span"], fields["method"], route, status, fields)
        counters = self._routes.get((route, status))
        if counters is None:
            metrics = self._metrics
            counters = (metrics.requests.labels(route, status), metrics.request_seconds.labels(route))
            self._routes[route, status] = counters
        counters[0].inc()
        counters[1].observe(seconds)
        if "reason" in fields:
            self._metrics.rejections.labels(fields["reason"]).inc()
        if log.isEnabledFor(logging.INFO) and fields["path"] not in HEALTH:
            level = logging.ERROR if status == 500 else logging.INFO
            # What `log.log` does, without looking up the line of code that calls it.
            record = logging.LogRecord(log.name, level, "", 0, "request", None, None)
            record.fields = {**fields, "status": status, "ms": round(1000 * seconds, 2)}
            log.handle(record)


def answer(problem: Problem, scope: Scope) -> JSONResponse:
    """The response to a problem, whose reason and message also go into the log."""
    fields = scope["state"]["fields"]
    fields["reason"] = problem.reason
    fields["message"] = problem.message
    return JSONResponse(problem.content(scope["path"], fields["request_id"]), problem.status, problem.headers())
