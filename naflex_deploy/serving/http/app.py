"""The HTTP application: Open Inference Protocol, routes in OpenAI's format, health, metrics and a demo page."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import naflex_deploy
from naflex_deploy.core.errors import NaflexError
from naflex_deploy.serving.http import docs_page, oip, openapi
from naflex_deploy.serving.http.gate import LEFT, Gate, answer
from naflex_deploy.serving.http.infer_route import InferRoute
from naflex_deploy.serving.http.keys import Keys
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.logs.traces import Traces
from naflex_deploy.serving.http.metrics import Metrics
from naflex_deploy.serving.http.models import Models
from naflex_deploy.serving.http.problems import Problem, problem_of
from naflex_deploy.serving.http.service import Service
from naflex_deploy.serving.http.v1 import routes

_REASONS = {404: "not_found", 405: "method_not_allowed"}
"""Reasons of the statuses with which the router refuses a request."""


def create_app(
    models: Models,
    *,
    limits: Limits | None = None,
    keys: Collection[str] = (),
    metrics: Metrics | None = None,
    normalize: bool = False,
    traces: Traces | None = None,
) -> Gate:
    """Create the application.

    Args:
        models: Models that are loaded already, so that the application is ready at once.
        limits: Limits of requests.
        keys: Accepted API keys. Without keys, none is required, and models cannot be reloaded over HTTP.
        metrics: The metrics to which the models' schedulers report.
        normalize: Whether /v1/embeddings divides vectors by their lengths, where a request does not say.
        traces: Takes the spans of requests.
    """
    app = FastAPI(title="naflex-deploy", version=naflex_deploy.__version__, openapi_url=None)
    service = Service(models, limits or Limits(), Keys(keys), metrics or Metrics(), traces)
    service.metrics.watch(models)
    _add_errors(app)
    _add_health(app, service)
    _add_oip(app, service)
    routes.add(app, service, normalize)
    infer = InferRoute(service)
    openapi.describe(app, infer)
    return Gate(app, infer, service, traces)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(NaflexError)
    async def on_problem(request: Request, error: NaflexError) -> Response:
        return answer(problem_of(error), request.scope)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        reason = _REASONS.get(error.status_code, "bad_request")
        allow = (error.headers or {}).get("Allow", "")
        return answer(Problem(error.status_code, reason, str(error.detail), allow=allow), request.scope)

    @app.exception_handler(ClientDisconnect)
    async def on_left(request: Request, error: ClientDisconnect) -> Response:
        request.scope["state"]["fields"]["reason"] = "client_left"
        return Response(status_code=LEFT)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> Response:
        return answer(problem_of(error), request.scope)


def _add_health(app: FastAPI, service: Service) -> None:
    page = files("naflex_deploy.serving.http").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/v2/health/live", summary="Liveness: the process answers")
    async def live() -> Response:
        return Response(status_code=200)

    @app.get("/health", summary="Readiness, under the name that other servers have for it")
    @app.get("/v2/health/ready", summary="Readiness: models are warm and the server is not draining")
    async def ready() -> Response:
        return Response(status_code=503 if service.draining else 200)

    @app.get("/metrics", summary="Metrics in the text format of Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # Both are made once, as that takes milliseconds.
    document = cache(lambda: json.dumps(app.openapi()).encode())
    described = cache(lambda: docs_page.page(app.openapi()))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_document() -> Response:
        return Response(document(), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(described(), headers={"content-security-policy": docs_page.POLICY})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        policy = "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        return HTMLResponse(page, headers={"content-security-policy": f"{policy}; connect-src 'self'"})


def _add_oip(app: FastAPI, service: Service) -> None:
    def versioned(path: str) -> list[str]:
        return [f"/v2/models/{{name}}{path}", f"/v2/models/{{name}}/versions/{oip.VERSION}{path}"]

    @app.get("/v2", summary="Name, version and extensions of the server")
    async def server() -> dict[str, Any]:
        return {
            "name": "naflex-deploy",
            "version": naflex_deploy.__version__,
            "extensions": ["binary_tensor_data", "model_repository"],
        }

    async def model_metadata(name: str) -> dict[str, Any]:
        return oip.metadata(service.model(name))

    async def model_ready(name: str) -> Response:
        service.model(name)
        return Response(status_code=503 if service.draining else 200)

    for path in versioned("/ready"):
        app.add_api_route(path, model_ready, summary="Readiness of a model")
    for path in versioned(""):
        app.add_api_route(path, model_metadata, summary="Inputs and outputs of a model")

    @app.post("/v2/repository/index", summary="List the loaded models")
    async def repository() -> list[dict[str, str]]:
        return [{"name": model.name, "version": oip.VERSION, "state": "READY"} for model in service.models.all()]

    @app.post("/v2/repository/models/{name}/load", summary="Reload a bundle; allowed only where API keys are set")
    async def load(name: str) -> Response:
        if not service.keys:
            raise Problem(
                403,
                "forbidden",
                "models can be reloaded over HTTP only where API keys are set",
                hint="start the server with API keys, or send it SIGHUP",
            )
        service.model(name)
        await service.reload(name)
        return Response(status_code=200)
