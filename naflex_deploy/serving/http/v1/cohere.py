"""/v1/embed and /v2/embed as Cohere has them, whose clients ask there and read the answer by position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from naflex_deploy.runtime.scheduling.texts import TextOutcome
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.v1.answers import embedding
from naflex_deploy.serving.http.v1.items import Item
from naflex_deploy.serving.http.v1.openai import EmbeddingsRequest
from naflex_deploy.serving.http.v1.run import Row
from naflex_deploy.serving.http.v1.shapes import Body, Kind, TextPart, UrlPart, of_part

Version = Literal["1", "2"]


class Content(Body):
    """One of `inputs`."""

    content: Annotated[list[UrlPart | TextPart], Field(min_length=1, max_length=1)]
    """An image or a text; both together have no vector."""


class EmbedRequest(EmbeddingsRequest):
    """A request to `POST /v2/embed`; shapes and options of `POST /v1/embeddings` are accepted, too."""

    inputs: Annotated[list[Content], Field(fail_fast=True)] | None = None
    """Images and texts, instead of `images` or `texts`."""
    output_dimension: int | None = None
    """Length of the vectors; only the model's own."""
    priority: Literal[0] = 0
    """Only 0: the scale of Cohere is another one than that of this server."""

    def items(self, kind: Kind | None, check: Callable[[int], None]) -> list[Item]:
        if self.inputs is None:
            return super().items(kind, check)
        check(len(self.inputs))
        places = [f"inputs[{index}].content[0]" for index in range(len(self.inputs))]
        return [of_part(index, places[index], one.content[0]) for index, one in enumerate(self.inputs)]

    def check(self, model: Model, items: Sequence[Item]) -> None:
        super().check(model, items)
        self.check_width(model, self.output_dimension, "output_dimension")


class BilledUnits(BaseModel):
    input_tokens: int
    """Tokens of texts."""
    image_tokens: int
    images: int


class ApiVersion(BaseModel):
    version: Version


class Meta(BaseModel):
    api_version: ApiVersion
    billed_units: BilledUnits


class EmbedResponse(BaseModel):
    response_type: Literal["embeddings_floats", "embeddings_by_type"]
    id: str
    """That of the request."""
    embeddings: list[list[float]] | dict[Literal["float", "base64"], list[list[float] | str]]
    """One vector per input, by the type that was asked for; in version 1 without it where none was."""
    texts: list[str]
    meta: Meta


def embeddings(
    request: EmbedRequest, model: Model, rows: Sequence[Row], *, version: Version, name: str, normalize: bool
) -> EmbedResponse:
    """The answer to a request.

    Args:
        request, model, rows: What was asked for, and what was computed.
        version: Of the interface.
        name: The id of the request.
        normalize: Whether vectors are divided by their lengths, where the request does not say.

    Raises:
        Problem: An input is a document of several pages, which this form of answer cannot tell apart.
    """
    for row in rows:
        if row.page is not None and row.page > 1 and row.item.page is None:
            what = "expected one vector per input, found a document of several pages"
            raise Problem(422, "bad_request", what, hint="send it to /v1/embeddings", param=row.item.place)
    vectors = [embedding(request, model, row, normalize=normalize).embedding for row in rows]
    plain = version == "1" and request.embedding_types is None and request.encoding == "float"
    texts = [row for row in rows if isinstance(row.outcome, TextOutcome)]
    words = sum(row.tokens for row in texts)
    units = BilledUnits(
        input_tokens=words, image_tokens=sum(row.tokens for row in rows) - words, images=len(rows) - len(texts)
    )
    return EmbedResponse(
        response_type="embeddings_floats" if plain else "embeddings_by_type",
        id=name,
        embeddings=vectors if plain else {request.encoding: vectors},
        texts=[str(row.item.content) for row in texts],
        meta=Meta(api_version=ApiVersion(version=version), billed_units=units),
    )
