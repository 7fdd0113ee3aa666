"""/v1/embeddings in OpenAI's format, and /v1/classify like it. Images are base64 in JSON, or multipart files."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from naflex_deploy.runtime.results.classes import rank
from naflex_deploy.runtime.results.embeddings import unit
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.receiving import json_bounds
from naflex_deploy.serving.http.service import INLINE
from naflex_deploy.serving.http.shapes import Images, decode

FILES = "image"
"""Name of the multipart field for images; a request repeats it for each image."""


class ImagesRequest(Images):
    """The fields of every request with images."""

    model: str = ""
    """Name of a loaded bundle. Default: the first one."""
    explain: bool = False
    """Whether to report the pack of each image and the time of each stage."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds within which to answer. Default: the server's limit."""
    priority: Annotated[int, Field(ge=-1, le=1)] = 0
    """Priority in the queue: 1 goes before 0, and 0 before -1."""
    user: str = ""
    """Accepted for compatibility, but not used."""
    modality: Literal["image"] = "image"
    """Kind of what is sent, as for infinity."""
    input_type: Literal["image"] = "image"
    """Kind of what is sent, as for Cohere."""
    truncate: str | bool | None = None
    """Accepted for compatibility, but not used: only texts are truncated."""
    truncate_prompt_tokens: int | None = None
    """Accepted for compatibility, but not used: only texts are truncated."""
    add_special_tokens: bool | None = None
    """Accepted for compatibility, but not used: only texts have such tokens."""

    def check(self, model: Model) -> None:
        """Refuse what the model cannot do.

        Raises:
            Problem: The request asks for it.
        """


class EmbeddingsRequest(ImagesRequest):
    """A request to `POST /v1/embeddings`."""

    encoding_format: Literal["float", "base64"] = "float"
    """Whether vectors are lists of numbers or little-endian float32 in base64."""
    embedding_type: Literal["float", "base64"] | None = None
    """The same, as for Jina."""
    embedding_types: Annotated[list[Literal["float", "base64"]], Field(min_length=1, max_length=1)] | None = None
    """The same, as for Cohere; one of them."""
    normalize: Annotated[bool | None, Field(validation_alias=AliasChoices("normalize", "normalized"))] = None
    """Whether vectors are divided by their lengths; `normalized` for Jina. Default: as the server was started."""
    dimensions: int | None = None
    """Length of the vectors; only the model's own."""

    @property
    def encoding(self) -> str:
        return self.embedding_type or (self.embedding_types or [self.encoding_format])[0]

    def check(self, model: Model) -> None:
        width = next(int(spec.shape[-1]) for spec in model.variant.outputs if spec.name == "pooled")
        if self.dimensions not in (None, width):
            what = f"expected null or {width}, found {self.dimensions}: the model was not trained for shorter vectors"
            raise Problem(422, "bad_request", what, hint="leave `dimensions` out", param="dimensions")


class ClassifyRequest(ImagesRequest):
    """A request to `POST /v1/classify`."""

    top: Annotated[int, Field(ge=1, le=1000)] = 5
    """Maximum number of classes per image."""


T = TypeVar("T", bound=ImagesRequest)


class Packing(BaseModel):
    """The place of an image in a pack, and the time of each stage."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pack: int
    """Number of the pack, from 0."""
    start: int
    """Index of the image's first token in the pack."""
    tokens: int
    """Number of the image's tokens, prefix tokens included."""
    budget: int
    """Largest budget of the engine, in tokens."""
    grid_hw: tuple[int, int]
    """Rows and columns of the image's patch grid."""
    decoded: float
    """Seconds from the arrival of the image to the end of decoding."""
    waited: float
    """Seconds from the end of decoding to the start of the run."""
    ran: float
    """Seconds of the pack's run."""


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    packing: Packing | None = None


class ClassScore(BaseModel):
    label: str
    score: float


class Classification(BaseModel):
    object: Literal["classification"] = "classification"
    index: int
    classes: list[ClassScore]
    packing: Packing | None = None


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class ClassifyResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[Classification]
    model: str
    usage: Usage


def parse_json(body: bytes, kind: type[T], limits: Limits) -> tuple[T, list[bytes]]:
    """Parse a JSON body into a request and its images.

    Raises:
        Problem: The body is not valid; the problem says what is wrong and where.
    """
    try:
        request = json_bounds.parse_json(kind, body)
    except ValidationError as error:
        raise _invalid(error) from None
    sent = request.sent()
    limits.check_count(len(sent), "input", "send images in base64 as `input`")
    return request, [decode(text, place) for place, text in sent]


async def read_multipart(body: bytes, headers: Headers, kind: type[T], limits: Limits) -> tuple[T, list[bytes]]:
    """Like `parse_multipart`, for a large body in another thread."""
    parsing = parse_multipart(body, headers, kind, limits)
    return await parsing if len(body) <= INLINE else await asyncio.to_thread(asyncio.run, parsing)


async def parse_multipart(body: bytes, headers: Headers, kind: type[T], limits: Limits) -> tuple[T, list[bytes]]:
    """Parse a multipart body into a request and its images.

    Raises:
        Problem: The body is not valid; the problem says what is wrong and where.
    """

    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(headers, stream(), max_files=limits.items, max_fields=16)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # the body is in memory already, so spool nothing to disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        reason = "too_many_items" if "Too many" in error.message else "bad_request"
        raise Problem(422, reason, f"the multipart form cannot be read: {error.message}") from None
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    files = [value for name, value in form.multi_items() if isinstance(value, UploadFile) and name == FILES]
    limits.check_count(len(files), "input", f"send each image as a file in the field `{FILES}`")
    try:
        request = kind.model_validate({**fields, "input": []})
    except ValidationError as error:
        raise _invalid(error) from None
    return request, [await file.read() for file in files]


def embeddings(
    request: EmbeddingsRequest, model: Model, served: Sequence[ImageOutcome], *, normalize: bool = False
) -> EmbeddingsResponse:
    """The answer to a request; ``normalize`` where it does not say whether."""
    normalized = normalize if request.normalize is None else request.normalize

    def encoded(item: ImageOutcome) -> list[float] | str:
        values = unit(item.outputs["pooled"]) if normalized else item.outputs["pooled"]
        if request.encoding == "base64":
            return base64.b64encode(values.astype("<f4").tobytes()).decode()
        return [float(value) for value in values]

    data = [
        Embedding(index=index, embedding=encoded(item), packing=_packing(request, model, item))
        for index, item in enumerate(served)
    ]
    return EmbeddingsResponse(data=data, model=model.name, usage=_usage(served))


def classes(request: ClassifyRequest, model: Model, served: Sequence[ImageOutcome]) -> ClassifyResponse:
    head = model.manifest.head
    if head is None:
        raise Problem(422, "no_such_output", f"model '{model.name}' has no classes", param="model")
    data = [
        Classification(
            index=index,
            classes=[
                ClassScore(label=found.name, score=found.score)
                for found in rank(item.outputs["logits"], head, request.top)
            ],
            packing=_packing(request, model, item),
        )
        for index, item in enumerate(served)
    ]
    return ClassifyResponse(data=data, model=model.name, usage=_usage(served))


def _packing(request: ImagesRequest, model: Model, item: ImageOutcome) -> Packing | None:
    if not request.explain:
        return None
    return Packing(
        pack=item.pack,
        start=item.start,
        tokens=item.grid_hw[0] * item.grid_hw[1] + model.manifest.model.prefix,
        budget=model.variant.budgets[-1],
        grid_hw=item.grid_hw,
        decoded=round(item.decoded, 6),
        waited=round(item.waited, 6),
        ran=round(item.ran, 6),
    )


def _usage(served: Sequence[ImageOutcome]) -> Usage:
    tokens = int(np.sum([item.grid_hw[0] * item.grid_hw[1] for item in served]))
    return Usage(prompt_tokens=tokens, total_tokens=tokens)


def _invalid(error: ValidationError) -> Problem:
    first: Any = error.errors(include_input=False, include_url=False)[0]
    return Problem(
        422, "bad_request", first["msg"], hint="see /openapi.json", param=".".join(map(str, first["loc"])) or None
    )
