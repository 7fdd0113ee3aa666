"""/v1/embeddings in OpenAI's format, and /v1/classify like it. Inputs come in JSON, or images as multipart files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, Field, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.receiving import json_bounds
from naflex_deploy.serving.http.service import INLINE
from naflex_deploy.serving.http.v1.items import Item
from naflex_deploy.serving.http.v1.shapes import Inputs, Kind

FILES = "image"
"""Name of the multipart field for images; a request repeats it for each image."""


class Request(Inputs):
    """The fields of every request."""

    model: str = ""
    """Name of a loaded bundle. Default: the first one."""
    explain: bool = False
    """Whether to report the pack of each image and the time of each stage."""
    preview: bool = False
    """Whether each page of a document comes with a picture of what the model sees of it."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds within which to answer. Default: the server's limit."""
    priority: Annotated[int, Field(ge=-1, le=1)] = 0
    """Priority in the queue: 1 goes before 0, and 0 before -1."""
    user: str = ""
    """Accepted for compatibility, but not used."""
    modality: Kind | None = None
    """What every string of `input` is, as for infinity. Default: each shows it."""
    input_type: Literal["image", "search_query", "search_document", "classification", "clustering"] | None = None
    """What is sent, as for Cohere; only whether it is an image counts, as for `modality`."""
    truncate: Literal["NONE", "START", "END"] | bool | None = None
    """Whether texts that the model cannot read to their end are cut there, which is the default; `NONE` and false
    refuse them."""
    truncate_prompt_tokens: int | None = None
    """Accepted for compatibility, but not used: texts are cut where the model's length ends."""
    add_special_tokens: bool | None = None
    """Accepted for compatibility, but not used: the tokenizer of the model adds its own."""

    @property
    def kind(self) -> Kind | None:
        """What every string of the input is, where the request says it."""
        return self.modality or ("image" if self.input_type == "image" else None)

    @property
    def tokenizes(self) -> bool:
        """Whether `check` reads texts as the model does, which takes longer than the rest of it."""
        return self.truncate in (False, "NONE")

    def check(self, model: Model, items: Sequence[Item]) -> None:
        """Refuse what the model cannot do.

        Raises:
            Problem: The request asks for it.
        """
        if self.truncate == "START":
            raise Problem(422, "bad_request", "texts are cut at their end, not at their start", param="truncate")
        texts = [item for item in items if isinstance(item.content, str)]
        if self.tokenizes and texts and model.cut is not None:
            for item, cut in zip(texts, model.cut([str(item.content) for item in texts]), strict=True):
                if cut:
                    what = "the text is longer than the model reads"
                    raise Problem(
                        422, "bad_request", what, hint="shorten it, or leave `truncate` out", param=item.place
                    )


class EmbeddingsRequest(Request):
    """A request to `POST /v1/embeddings`."""

    encoding_format: Literal["float", "base64"] = "float"
    """Whether vectors are lists of numbers or little-endian float32 in base64."""
    embedding_type: Literal["float", "base64"] | None = None
    """The same, as for Jina."""
    embedding_types: Annotated[list[Literal["float", "base64"]], Field(min_length=1, max_length=1)] | None = None
    """The same, as for Cohere; one of them."""
    normalize: Annotated[bool | None, Field(validation_alias=AliasChoices("normalize", "normalized"))] = None
    """Whether vectors are divided by their lengths; `normalized` for Jina. Default: as the server was started."""
    columns: bool = False
    """Whether each entry has the columns of the table that `embed -o` writes, as far as they are known here."""
    dimensions: int | None = None
    """Length of the vectors; only the model's own, which 0 means for infinity."""

    @property
    def encoding(self) -> str:
        return self.embedding_type or (self.embedding_types or [self.encoding_format])[0]

    def check(self, model: Model, items: Sequence[Item]) -> None:
        super().check(model, items)
        self.check_width(model, self.dimensions or None, "dimensions")

    def check_width(self, model: Model, asked: int | None, field: str) -> None:
        """Refuse a length of vectors that is not the model's own.

        Raises:
            Problem: It is another one.
        """
        width = next(int(spec.shape[-1]) for spec in model.variant.outputs if spec.name == "pooled")
        if asked not in (None, width):
            what = f"expected null or {width}, found {asked}: the model was not trained for shorter vectors"
            raise Problem(422, "bad_request", what, hint=f"leave `{field}` out", param=field)


class ClassifyRequest(Request):
    """A request to `POST /v1/classify`."""

    top: Annotated[int, Field(ge=1, le=1000)] = 5
    """Maximum number of classes per image."""

    @property
    def kind(self) -> Kind | None:
        return self.modality or "image"

    def check(self, model: Model, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item.content, str):
                what = "expected an image in base64, found a text, which has no classes"
                raise Problem(422, "bad_request", what, hint="send an image", param=item.place)


T = TypeVar("T", bound=Request)


async def check(request: Request, model: Model, items: Sequence[Item]) -> None:
    """`Request.check`, in another thread where it reads texts as the model does."""
    if request.tokenizes:
        await asyncio.to_thread(request.check, model, items)
    else:
        request.check(model, items)


def parse_json(body: bytes | bytearray, kind: type[T], limits: Limits) -> tuple[T, list[Item]]:
    """Parse a JSON body into a request and its inputs.

    Raises:
        Problem: The body is not valid; the problem says what is wrong and where.
    """
    try:
        request = json_bounds.parse_json(kind, body, limits.items)
    except ValidationError as error:
        raise _invalid(error) from None
    check = partial(limits.check_count, param="input", hint="send images in base64 as `input`")
    return request, request.items(request.kind, check)


async def read_multipart(
    body: bytes | bytearray, headers: Headers, kind: type[T], limits: Limits
) -> tuple[T, list[Item]]:
    """Like `parse_multipart`, for a large body in another thread."""
    parsing = parse_multipart(body, headers, kind, limits)
    return await parsing if len(body) <= INLINE else await asyncio.to_thread(asyncio.run, parsing)


async def parse_multipart(
    body: bytes | bytearray, headers: Headers, kind: type[T], limits: Limits
) -> tuple[T, list[Item]]:
    """Parse a multipart body into a request and its images.

    Raises:
        Problem: The body is not valid; the problem says what is wrong and where.
    """

    async def stream() -> AsyncIterator[bytes]:
        for piece in json_bounds.pieces(body):
            yield piece

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
    return request, [Item(index, f"input[{index}]", await file.read()) for index, file in enumerate(files)]


def _invalid(error: ValidationError) -> Problem:
    first: Any = error.errors(include_input=False, include_url=False)[0]
    return Problem(
        422, "bad_request", first["msg"], hint="see /openapi.json", param=".".join(map(str, first["loc"])) or None
    )
