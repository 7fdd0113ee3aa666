"""/info, /v1/models, /v1/embeddings and /v1/classify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

import naflex_deploy
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.schemas import body
from naflex_deploy.serving.http.service import Service, work
from naflex_deploy.serving.http.v1 import answers, openai, run
from naflex_deploy.serving.http.v1.items import Item
from naflex_deploy.serving.http.v1.shapes import Inputs

JSON, FORM = "application/json", "multipart/form-data"


def add(app: FastAPI, service: Service, normalize: bool) -> None:
    """Add the routes; ``normalize`` where a request does not say whether vectors are divided by their lengths."""

    @app.get("/info", summary="Name and version of the server, and its models")
    async def info() -> dict[str, Any]:
        described = [_described(model) for model in service.models.all()]
        return {"name": "naflex-deploy", "version": naflex_deploy.__version__, "models": described}

    @app.get("/v1/models", summary="List the loaded models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_described(model) for model in service.models.all()]}

    @app.post(
        "/v1/embeddings",
        summary="Embed images, documents and texts: one vector per image, page or text",
        response_model=answers.EmbeddingsResponse,
        openapi_extra=body(openai.EmbeddingsRequest, files=openai.FILES, instead_of=Inputs.model_fields),
    )
    async def embeddings(request: Request) -> Response:
        return await _answered(
            service, request, openai.EmbeddingsRequest, "pooled", partial(answers.embeddings, normalize=normalize)
        )

    @app.post(
        "/v1/classify",
        summary="Classify images and documents: the most probable classes of each image or page",
        response_model=answers.ClassifyResponse,
        openapi_extra=body(openai.ClassifyRequest, files=openai.FILES, instead_of=Inputs.model_fields),
    )
    async def classify(request: Request) -> Response:
        return await _answered(service, request, openai.ClassifyRequest, "logits", answers.classes)


async def _answered(
    service: Service,
    request: Request,
    kind: type[openai.T],
    output: str,
    write: Callable[[openai.T, Model, Sequence[run.Row]], BaseModel],
) -> Response:
    service.check_ready()
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in (JSON, FORM):
        raise Problem(415, "unsupported_media_type", f"expected {JSON} or {FORM}, found {media[:60]!r}")
    headers = dict(request.scope["headers"])
    client = service.keys.client(request.scope, headers)
    async with service.buffers.body(headers, request.receive, client) as content:
        if media == JSON:
            parsed, items = await work(len(content), openai.parse_json, content, kind, service.limits)
        else:
            parsed, items = await openai.read_multipart(content, request.headers, kind, service.limits)
        model = service.model(parsed.model)
        parsed.check(model, items)
        if output not in model.outputs:
            raise Problem(422, "no_such_output", f"model '{model.name}' has no output '{output}'", param="model")
        model, rows = await _run(service, request, model.name, items, output, parsed)
        size = 8 * sum(row.nbytes for row in rows)
        answer = await work(size, lambda: write(parsed, model, rows).model_dump_json(exclude_none=True))
        return Response(answer, media_type=JSON)


async def _run(
    service: Service, request: Request, name: str, items: Sequence[Item], output: str, parsed: openai.Request
) -> tuple[Model, list[run.Row]]:
    """Run items on the model that has this name now, and record what ran."""
    fields = request.scope["state"]["fields"]
    texts = sum(isinstance(item.content, str) for item in items)
    fields["model"], fields["images"] = name, len(items) - texts
    if texts:
        fields["texts"] = texts

    async def once(model: Model) -> list[run.Row]:
        limits, seconds, priority = service.limits, parsed.timeout, parsed.priority
        return await run.run(request.receive, model, items, (output,), limits, seconds=seconds, priority=priority)

    model, rows = await service.on_model(name, once)
    fields["tokens"] = sum(row.tokens for row in rows)
    service.metrics.decoded(name, [row.outcome for row in rows if isinstance(row.outcome, ImageOutcome)])
    return model, rows


def _described(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "owned_by": model.manifest.model.source,
        "variant": model.variant.name,
        "outputs": list(model.outputs),
        "classes": len(model.labels),
        "texts": model.texts is not None,
        "budget": model.variant.budgets[-1],
    }
