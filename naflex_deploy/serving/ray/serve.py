"""A Ray Serve deployment: each replica is an engine whose concurrent requests share packs.

    from ray import serve
    from naflex_deploy.serving.ray.serve import deployment
    serve.run(deployment("build/doc-ocr", num_replicas=2))

Ray's batching counts requests, while the replica's scheduler packs tokens, so `max_ongoing_requests` must be large
enough to fill packs. Over HTTP a replica answers like ``/v1/embeddings``; through a handle, ``embed`` takes images.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from naflex_deploy.core.errors import needs_extra
from naflex_deploy.serving.http.infer import infer
from naflex_deploy.serving.http.limits import Limits, Sent
from naflex_deploy.serving.http.models import open_model
from naflex_deploy.serving.http.problems import problem_of
from naflex_deploy.serving.http.v1 import answers, openai
from naflex_deploy.serving.http.v1.run import run


class PackedEmbedder:
    """The class that a replica runs.

    Args:
        bundle: Path of the bundle, which every machine can read.
        limits: Limits of requests.
    """

    def __init__(self, bundle: str, limits: Limits | None = None) -> None:
        self._model = open_model(Path(bundle).resolve().name, Path(bundle))
        self._limits = limits or Limits()

    async def embed(self, images: list[Sent]) -> npt.NDArray[np.float32]:
        """Embed encoded images or [h, w, 3] pixels: [N, D] float32, in order.

        Raises:
            Problem: The first image that failed, or the queue, caused an error.
        """
        served = await infer(_never, self._model, images, ("pooled",), self._limits)
        return np.stack([item.outputs["pooled"] for item in served])

    async def __call__(self, request: Request) -> Response:
        """Answer a ``POST`` with a JSON body like that of ``/v1/embeddings``."""
        try:
            body = await request.body()
            parsed, items = await asyncio.to_thread(openai.parse_json, body, openai.EmbeddingsRequest, self._limits)
            parsed.check(self._model, items)
            rows = await run(_never, self._model, items, ("pooled",), self._limits)
            answer = answers.embeddings(parsed, self._model, rows)
            return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
        except Exception as error:
            problem = problem_of(error)
            content = problem.content("/v1/embeddings", request.headers.get("x-request-id", ""))
            return JSONResponse(content, problem.status, problem.headers())


async def _never() -> Message:
    """Report no disconnect, because Ray cancels the call itself when the sender leaves."""
    waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await waiting


def deployment(
    bundle: str | Path, *, limits: Limits | None = None, max_ongoing_requests: int = 256, **options: Any
) -> Any:
    """A Ray Serve application of `PackedEmbedder`.

    Args:
        bundle: Path of the bundle, which every machine can read.
        limits: Limits of requests.
        max_ongoing_requests: Maximum number of concurrent requests per replica; use enough to fill packs.
        options: Further options of ``serve.deployment``, such as ``num_replicas``.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    with needs_extra("ray"):
        serve: Any = import_module("ray.serve")
    made = serve.deployment(PackedEmbedder, max_ongoing_requests=max_ongoing_requests, **options)
    return made.bind(str(Path(bundle).resolve()), limits)
