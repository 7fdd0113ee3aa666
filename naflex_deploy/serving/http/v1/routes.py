"""/info, /v1/models, /v1/embeddings and /v1/classify, and /v1/embed and /v2/embed for Cohere's clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import Any, get_args

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

import naflex_deploy
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.schemas import body
from naflex_deploy.serving.http.service import Service, work
from naflex_deploy.serving.http.v1 import answers, cohere, openai, run, stream
from naflex_deploy.serving.http.v1.items import Item
from naflex_deploy.serving.http.v1.shapes import Inputs

JSON, FORM = "application/json", "multipart/form-data"
LINES: dict[int | str, dict[str, Any]] = {200: {"content": {stream.MEDIA: {"schema": {"type": "string"}}}}}
"""A good answer where it is asked for line by line."""


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
        responses=LINES,
        openapi_extra=body(openai.EmbeddingsRequest, files=openai.FILES, instead_of=Inputs.model_fields),
    )
    async def embeddings(request: Request) -> Response:
        return await _answered(
            service,
            request,
            openai.EmbeddingsRequest,
            "pooled",
            partial(answers.embeddings, normalize=normalize),
            partial(answers.embedding, normalize=normalize),
        )

    for version in get_args(cohere.Version):
        _add_cohere(app, service, normalize, version)

    @app.post(
        "/v1/classify",
        summary="Classify images and documents: the most probable classes of each image or page",
        response_model=answers.ClassifyResponse,
        responses=LINES,
        openapi_extra=body(openai.ClassifyRequest, files=openai.FILES, instead_of=Inputs.model_fields),
    )
    async def classify(request: Request) -> Response:
        return await _answered(
            service, request, openai.ClassifyRequest, "logits", answers.classes, answers.classification
        )


def _add_cohere(app: FastAPI, service: Service, normalize: bool, version: cohere.Version) -> None:
    @app.post(
        f"/v{version}/embed",
        name=f"embed_v{version}",
        summary="Embed images and texts for clients of Cohere: one vector per input, in their order",
        response_model=cohere.EmbedResponse,
        responses=LINES,
        openapi_extra=body(cohere.EmbedRequest),
    )
    async def embed(request: Request) -> Response:
        name = request.scope["state"]["fields"]["request_id"]
        return await _answered(
            service,
            request,
            cohere.EmbedRequest,
            "pooled",
            partial(cohere.embeddings, version=version, name=name, normalize=normalize),
            partial(answers.embedding, normalize=normalize),
        )


async def _answered(
    service: Service,
    request: Request,
    kind: type[openai.T],
    output: str,
    write: Callable[[openai.T, Model, Sequence[run.Row]], BaseModel],
    write_entry: Callable[[openai.T, Model, run.Row], BaseModel],
) -> Response:
    service.check_ready()
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in (JSON, FORM):
        raise Problem(415, "unsupported_media_type", f"expected {JSON} or {FORM}, found {media[:60]!r}")
    headers = dict(request.scope["headers"])
    client = service.keys.client(request.scope, headers)
    streamed = stream.MEDIA in request.headers.get("accept", "")
    limits = service.limits
    if streamed:
        limits = replace(limits, items=stream.LONGER * limits.items)
    async with AsyncExitStack() as held:
        content = await held.enter_async_context(service.buffers.body(headers, request.receive, client))
        if media == JSON:
            parsed, items = await work(len(content), openai.parse_json, content, kind, limits)
        else:
            parsed, items = await openai.read_multipart(content, request.headers, kind, limits)
        model = service.model(parsed.model)
        if output not in model.outputs:
            raise Problem(422, "no_such_output", f"model '{model.name}' has no output '{output}'", param="model")
        if streamed:
            parsed.check(model, [])
            fields = _noted(request, model, items)
            entry = partial(write_entry, parsed)
            return _Lines(held.pop_all(), stream.lines(service, model, items, output, parsed, entry, fields))
        await openai.check(parsed, model, items)
        model, rows = await _run(service, request, model, items, output, parsed)
        size = 8 * sum(row.nbytes for row in rows)
        answer = await work(size, lambda: write(parsed, model, rows).model_dump_json(exclude_none=True))
        return Response(answer, media_type=JSON)


class _Lines(StreamingResponse):
    """Sends lines as they come.

    Args:
        held: Closed once they are sent, or their reader has left.
        found: The lines.
    """

    def __init__(self, held: AsyncExitStack, found: AsyncGenerator[bytes]) -> None:
        super().__init__(found, media_type=stream.MEDIA)
        self._held, self._found = held, found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held, aclosing(self._found):
            await super().__call__(scope, receive, send)


def _noted(request: Request, model: Model, items: Sequence[Item]) -> dict[str, Any]:
    """The fields of the request's line in the log, with what it holds."""
    fields: dict[str, Any] = request.scope["state"]["fields"]
    texts = sum(isinstance(item.content, str) for item in items)
    fields["model"], fields["images"] = model.name, len(items) - texts
    if texts:
        fields["texts"] = texts
    return fields


async def _run(
    service: Service, request: Request, model: Model, items: Sequence[Item], output: str, parsed: openai.Request
) -> tuple[Model, list[run.Row]]:
    """Run items on the model that has this name now, and record what ran."""
    fields = _noted(request, model, items)

    async def once(model: Model) -> list[run.Row]:
        return await run.run(
            request.receive,
            model,
            items,
            (output,),
            service.limits,
            seconds=parsed.timeout,
            priority=parsed.priority,
            preview=parsed.preview,
        )

    model, rows = await service.on_model(model.name, once)
    fields["tokens"] = sum(row.tokens for row in rows)
    outcomes = [row.outcome for row in rows if isinstance(row.outcome, ImageOutcome)]
    service.note(request.scope, model.name, outcomes)
    return model, rows


def _described(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "owned_by": model.manifest.model.source,
        "variant": model.variant.name,
        "precision": model.variant.precision,
        "outputs": list(model.outputs),
        "classes": len(model.labels),
        "texts": model.texts is not None,
        "budget": model.variant.budgets[-1],
    }
