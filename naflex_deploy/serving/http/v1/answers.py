"""Answers in OpenAI's format: the vectors or classes of the inputs of a request."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

from pydantic import BaseModel, ConfigDict

from naflex_deploy.core.config import ADJUSTABLE
from naflex_deploy.core.version import TOOL
from naflex_deploy.runtime.results.classes import rank
from naflex_deploy.runtime.results.columns import Value, of_run
from naflex_deploy.runtime.results.embeddings import unit
from naflex_deploy.runtime.results.table import Provenance
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.runtime.scheduling.texts import TextOutcome
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.v1.openai import ClassifyRequest, EmbeddingsRequest, Request
from naflex_deploy.serving.http.v1.run import Row


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
    """Number of the input, from 0."""
    page: int | None = None
    """Number of the page, from 1, where the input is a document; it has an entry for each page."""
    embedding: list[float] | str
    columns: dict[str, str | int | float | None] | None = None
    """Columns of the table that `embed -o` writes, by their names there."""
    packing: Packing | None = None
    preview: str | None = None
    """What the model sees of a page, as a `data:` URL of a JPEG file."""


class ClassScore(BaseModel):
    label: str
    score: float


class Classification(BaseModel):
    object: Literal["classification"] = "classification"
    index: int
    """Number of the input, from 0."""
    page: int | None = None
    """Number of the page, from 1, where the input is a document; it has an entry for each page."""
    classes: list[ClassScore]
    packing: Packing | None = None
    preview: str | None = None
    """What the model sees of a page, as a `data:` URL of a JPEG file."""


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


def embeddings(
    request: EmbeddingsRequest, model: Model, rows: Sequence[Row], *, normalize: bool = False
) -> EmbeddingsResponse:
    """The answer to a request; ``normalize`` where it does not say whether."""
    data = [embedding(request, model, row, normalize=normalize) for row in rows]
    return EmbeddingsResponse(data=data, model=model.name, usage=usage(rows))


def embedding(request: EmbeddingsRequest, model: Model, row: Row, *, normalize: bool) -> Embedding:
    """One entry of an answer."""
    outcome = row.outcome
    values = outcome.vector if isinstance(outcome, TextOutcome) else outcome.outputs["pooled"]
    if normalize if request.normalize is None else request.normalize:
        values = unit(values)
    if request.encoding == "base64":
        encoded: list[float] | str = base64.b64encode(values.astype("<f4").tobytes()).decode()
    else:
        encoded = values.tolist()
    return Embedding(
        index=row.index,
        page=row.page,
        embedding=encoded,
        columns=_columns(model, row) if request.columns else None,
        packing=_packing(request, model, outcome),
        preview=row.preview,
    )


def _columns(model: Model, row: Row) -> dict[str, Value]:
    """What is known here of the row that ``embed`` would write: not the path, and nothing of the frame's size."""
    weights, outcome, content = model.manifest.model.digest, row.outcome, row.item.content
    if isinstance(outcome, TextOutcome):
        return {"text": str(content)} | _known(of_run(Provenance(weights, "text", "", TOOL)))
    assert isinstance(content, bytes)
    rows, columns = outcome.grid_hw
    preparation = model.manifest.config.model_dump_json(include=set(ADJUSTABLE))
    own: dict[str, Value] = {
        "sha256": sha256(content).hexdigest(),
        "frame": (row.page or 1) - 1,
        "grid_rows": rows,
        "grid_columns": columns,
    }
    return own | _known(of_run(Provenance(weights, model.variant.name, preparation, TOOL)))


def _known(columns: dict[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in columns.items() if value is not None}


def classes(request: ClassifyRequest, model: Model, rows: Sequence[Row]) -> ClassifyResponse:
    """The answer to a request."""
    data = [classification(request, model, row) for row in rows]
    return ClassifyResponse(data=data, model=model.name, usage=usage(rows))


def classification(request: ClassifyRequest, model: Model, row: Row) -> Classification:
    """One entry of an answer.

    Raises:
        Problem: The model has no classes.
    """
    head, outcome = model.manifest.head, row.outcome
    if head is None or isinstance(outcome, TextOutcome):
        raise Problem(422, "no_such_output", f"model '{model.name}' has no classes", param="model")
    found = rank(outcome.outputs["logits"], head, request.top)
    return Classification(
        index=row.index,
        page=row.page,
        classes=[ClassScore(label=one.name, score=one.score) for one in found],
        packing=_packing(request, model, outcome),
        preview=row.preview,
    )


def _packing(request: Request, model: Model, item: ImageOutcome | TextOutcome) -> Packing | None:
    if not request.explain or isinstance(item, TextOutcome):
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


def usage(rows: Sequence[Row]) -> Usage:
    """The tokens of all rows together."""
    tokens = sum(row.tokens for row in rows)
    return Usage(prompt_tokens=tokens, total_tokens=tokens)
